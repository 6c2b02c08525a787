# SPDX-License-Identifier: Apache-2.0
"""One spawn on the fake host: from an image to a running guest, or to nothing at all.

The directory and the guest carry the token of the work that made them, so that after a crash
the next attempt tells its own half-finished work from another instance. Only what carries the token is
undone, and the first step undoes all of it: an attempt that goes on may fail before it has walked as far as
the one before.
"""

import functools
from collections.abc import Mapping
from typing import Any

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt import configdrive
from compute_agent.virt.contract.base import BlockDeviceInfo, InjectedFiles, NetworkInfo
from compute_agent.virt.fake import design, network, storage
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.fake.described import describe
from compute_agent.virt.fake.world import Directory

MIB_KB = 1024


class Spawn:
    """One spawn.

    :param member: the member that it is part of, for faults
    """

    def __init__(
        self,
        driver: FakeBase,
        instance: Instance,
        image: Image | None,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo,
        password: str | None = None,
        member: str = "spawn",
        injected_files: InjectedFiles = None,
    ) -> None:
        self._driver = driver
        self._hypervisor = driver.hypervisor
        self._instance = instance.named()
        self._image = image
        self._vifs = list(network_info or ())
        self._info = block_device_info
        self._password = password
        self._member = member
        self._uuid = instance.uuid
        self._given = configdrive.Given(
            instance=self._instance,
            vifs=self._vifs,
            admin_password=password,
            injected_files=injected_files or (),
        )

    def steps(self) -> list[Step]:
        """Return the parts."""
        made = [
            self._step(
                "check", self._check, done=self._begun, undo=self._leave_nothing, detail=self._problems
            )
        ]
        if self._image is not None:
            made.append(self._step("image", self._fetch, done=self._cached, detail=self._to_fetch))
        made.append(self._step("disks", self._make_disks, done=self._has_disks, undo=self._drop_disks))
        if self._vifs:
            made.append(self._step("network", self._plug, undo=self._unplug))
        if self._design.volumes:
            made.append(self._step("volumes", self._connect, undo=self._disconnect))
        made.append(
            self._step(
                "define", self._define, done=self._is_defined, undo=self._undefine, detail=self._definition
            )
        )
        made.append(self._step("start", self._start, done=self._is_started, undo=self._stop))
        return made

    def _step(self, name: str, do: Any, **probes: Any) -> Step:
        return self._driver._step(self._member, name, self._instance, do, **probes)

    @functools.cached_property
    def _token(self) -> str:
        return self._driver._token()

    @functools.cached_property
    def _design(self) -> design.Design:
        drive = configdrive.is_wanted(self._given)
        return design.design(self._instance, self._image, self._info, config_drive=drive)

    # --- check -----------------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self._hypervisor.world.host.enabled:
            raise errors.HostDisabled("the host takes no new guests")
        world = self._hypervisor.world
        if self._uuid in world.domains:
            raise errors.InstanceExists("the hypervisor has a guest of that uuid")
        if self._instance.name in world.uuids:
            raise errors.InstanceExists("the hypervisor has a guest of that name")
        if self._uuid in world.directories:
            raise errors.InstanceExists("files of the instance are here already", hint="destroy removes them")
        network.check(self._vifs)
        configdrive.check(self._given)

    def _begun(self) -> bool:
        """Whether an attempt of this operation got past the checks."""
        return steps.current().resumed and (self._owns_directory() or self._is_defined())

    def _problems(self) -> Mapping[str, Any]:
        try:
            self._check()
        except errors.ComputeError as error:
            return {"problems": [error.to_error()]}
        return {"problems": []}

    # --- image and disks -------------------------------------------------------------------------------

    def _fetch(self) -> None:
        assert self._image is not None
        storage.cache(self._hypervisor, self._image)

    def _cached(self) -> bool:
        assert self._image is not None
        return storage.is_cached(self._hypervisor, self._image)

    def _to_fetch(self) -> Mapping[str, Any]:
        assert self._image is not None
        cached = self._cached()
        return {"bytes": 0 if cached else self._image.size_bytes, "cached": cached}

    def _make_disks(self) -> None:
        storage.check_room(self._hypervisor, self._design.size)
        made = Directory(token=self._token, disks=self._design.disks)
        self._hypervisor.effect("make_disks", self._uuid, directories=made)

    def _owns_directory(self) -> bool:
        found = self._hypervisor.world.directories.get(self._uuid)
        return found is not None and found.token == self._token

    def _has_disks(self) -> bool:
        return self._owns_directory()

    def _drop_disks(self) -> None:
        if self._owns_directory():
            self._hypervisor.effect("drop_disks", self._uuid, directories=None)

    # --- network and volumes ---------------------------------------------------------------------------

    def _plug(self) -> None:
        network.plug(self._driver, self._instance, self._vifs)

    def _unplug(self) -> None:
        if self._is_ours():
            network.unplug(self._driver, self._instance)

    def _connect(self) -> None:
        for volume, kind in self._design.volumes.items():
            storage.connect(self._hypervisor, self._uuid, volume, kind)

    def _disconnect(self) -> None:
        if self._is_ours():
            storage.disconnect_all(self._hypervisor, self._uuid)

    # --- the guest -------------------------------------------------------------------------------------

    def _define(self) -> None:
        flavor = self._instance.flavor
        self._hypervisor.define(
            self._uuid,
            name=self._instance.name,
            token=self._token,
            generation=self._instance.generation,
            described=describe(self._instance),
            vcpus=flavor.vcpus,
            max_mem_kb=flavor.memory_mb * MIB_KB,
            mem_kb=flavor.memory_mb * MIB_KB,
            min_mem_kb=(flavor.min_memory_mb or 0) * MIB_KB,
            devices=self._design.devices,
            nics={vif.id: design.nic(vif) for vif in self._vifs},
            own_devices=None,
            has_agent=design.has_agent(self._instance, self._image),
            password=storage.digest(self._password) if self._password else None,
        )

    def _definition(self) -> Mapping[str, Any]:
        return {
            "domain": {
                "name": self._instance.name,
                "vcpus": self._instance.flavor.vcpus,
                "memory_mb": self._instance.flavor.memory_mb,
                "devices": sorted(self._design.devices),
                "interfaces": [design.tap(vif) for vif in self._vifs],
            }
        }

    def _is_defined(self) -> bool:
        domain = self._hypervisor.find(self._uuid)
        return domain is not None and domain.token == self._token

    def _is_ours(self) -> bool:
        """Whether what is there of the instance was made by this work, so that it may be undone."""
        return self._is_defined() or self._owns_directory()

    def _undefine(self) -> None:
        if self._is_defined():
            self._hypervisor.stop(self._uuid)
            self._hypervisor.undefine(self._uuid)

    def _start(self) -> None:
        self._hypervisor.start(self._uuid, self._instance.start_paused)

    def _is_started(self) -> bool:
        return self._is_defined() and self._hypervisor.get(self._uuid).is_up

    def _stop(self) -> None:
        if self._is_defined():
            self._hypervisor.stop(self._uuid)

    def _leave_nothing(self) -> None:
        if self._is_ours():
            self._undefine()
            storage.disconnect_all(self._hypervisor, self._uuid)
            network.unplug(self._driver, self._instance)
            self._drop_disks()

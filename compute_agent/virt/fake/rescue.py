# SPDX-License-Identifier: Apache-2.0
"""Rescue: a fake guest runs from another image, its own root disk as the second one.

Whether a guest is rescued shows in it: its own devices are kept aside meanwhile. Each step asks that, so
rescue and unrescue may be interrupted and repeated anywhere.
"""

from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import Context, NetworkInfo
from compute_agent.virt.fake import design, storage
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.fake.world import Device, Directory, Disk, Domain

DISK = "disk.rescue"


class FakeRescue(FakeBase):
    """The rescue concern."""

    def rescue(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        image_meta: Image | None,
        rescue_password: str | None,
    ) -> None:
        """Restart a guest from ``image_meta``."""
        self.hypervisor.get(instance.uuid)
        steps.run(_Rescue(self, instance, image_meta, rescue_password).steps())

    def unrescue(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Restart a rescued guest from its own disk."""
        self.hypervisor.get(instance.uuid)
        work = _Rescue(self, instance, None, None)
        steps.run(work.back())


class _Rescue:
    def __init__(
        self, driver: FakeRescue, instance: Instance, image: Image | None, password: str | None
    ) -> None:
        self._driver = driver
        self._hypervisor = driver.hypervisor
        self._instance = instance
        self._uuid = instance.uuid
        self._image = image
        self._password = password
        self._was_up = self._domain.is_up and not self._rescued()

    def steps(self) -> list[Step]:
        return [
            self._step("rescue", "disk", self._make_disk, done=self._has_disk, undo=self._drop_disk),
            self._step("rescue", "stop", self._stop, done=self._rescued, undo=self._start_again),
            self._step("rescue", "define", self._define, done=self._rescued, undo=self._put_back),
            self._step("rescue", "start", self._start, done=lambda: self._domain.is_up),
        ]

    def back(self) -> list[Step]:
        """The rescue disk goes last: until then all can be put back as it was."""
        before, disk, ran = self._domain.devices, self._directory.disks.get(DISK), self._domain.is_up

        def keep_disk() -> None:
            if disk is not None and not self._has_disk():
                self._set_disks({**self._directory.disks, DISK: disk})

        def rescue_again() -> None:
            if disk is not None and not self._rescued():
                changes = {"devices": before, "own_devices": self._domain.devices}
                self._hypervisor.effect("rescue", self._uuid, domain=changes)

        def run_again() -> None:
            if ran and self._rescued():
                self._start()

        # An earlier attempt may have got that far: then what it was like before is not known any more.
        out = not self._rescued()
        return [
            self._step("unrescue", "stop", self._stop, done=lambda: not self._rescued(), undo=run_again),
            self._step(
                "unrescue",
                "define",
                self._put_back,
                done=lambda: not self._rescued(),
                undo=None if out else rescue_again,
            ),
            self._step(
                "unrescue",
                "start",
                self._start,
                done=lambda: self._domain.is_up,
                undo=None if out else self._stop,
            ),
            self._step(
                "unrescue", "disk", self._drop_disk, done=lambda: not self._has_disk(), undo=keep_disk
            ),
        ]

    def _step(self, member: str, name: str, do: Any, **probes: Any) -> Step:
        return self._driver._step(member, name, self._instance, do, **probes)

    @property
    def _domain(self) -> Domain:
        return self._hypervisor.get(self._uuid)

    @property
    def _directory(self) -> Directory:
        return self._hypervisor.world.directories.get(self._uuid, Directory())

    def _rescued(self) -> bool:
        return self._domain.own_devices is not None

    def _has_disk(self) -> bool:
        return DISK in self._directory.disks

    def _make_disk(self) -> None:
        size = 0
        if self._image is not None:
            storage.cache(self._hypervisor, self._image)
            size = self._image.size_bytes or storage.DEFAULT_IMAGE_BYTES
        storage.check_room(self._hypervisor, size)
        backing = design.image_key(self._image) if self._image else None
        self._set_disks({**self._directory.disks, DISK: Disk(DISK, size, backing=backing)})

    def _drop_disk(self) -> None:
        if self._has_disk():
            self._set_disks({name: d for name, d in self._directory.disks.items() if name != DISK})

    def _set_disks(self, disks: dict[str, Disk]) -> None:
        changed = msgspec.structs.replace(self._directory, disks=disks)
        self._hypervisor.effect("rescue_disk", self._uuid, directories=changed)

    def _define(self) -> None:
        own = self._domain.devices
        first = Device("vda", DISK, size=self._directory.disks[DISK].size, boot_index=0)
        devices = {"vda": first}
        root = next((d for d in own.values() if d.boot_index == 0), None)
        if root is not None:
            devices["vdb"] = msgspec.structs.replace(root, target="vdb", boot_index=1)
        changes: dict[str, Any] = {"devices": devices, "own_devices": own}
        if self._password:
            changes["password"] = storage.digest(self._password)
        self._hypervisor.effect("rescue", self._uuid, domain=changes)

    def _put_back(self) -> None:
        if self._rescued():
            self._hypervisor.stop(self._uuid)
            changes = {"devices": self._domain.own_devices, "own_devices": None}
            self._hypervisor.effect("unrescue", self._uuid, domain=changes)

    def _stop(self) -> None:
        self._hypervisor.stop(self._uuid)

    def _start(self) -> None:
        self._hypervisor.start(self._uuid)

    def _start_again(self) -> None:
        if self._was_up and not self._rescued():
            self._start()

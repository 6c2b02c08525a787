# SPDX-License-Identifier: Apache-2.0
"""One spawn: from an image to a running guest, or to nothing at all.

The work's token (the operation's id) stands in the directory's note and in the domain's
description, so that after a crash at any instant the next attempt tells its own
half-finished work from somebody else's instance. Only what carries the token is ever undone.

The first step undoes everything, since an attempt that goes on after a crash may fail before it
has walked as far as the one before.
"""

import functools
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import libvirt
import msgspec

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.block_device import SourceType
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.model.vif import Vif
from compute_agent.steps import Step
from compute_agent.virt import configdrive as drives
from compute_agent.virt.libvirt import (
    admission,
    configdrive,
    designer,
    disks,
    fencing,
    files,
    guest,
    local_disks,
    metadata,
    networks,
    room,
)
from compute_agent.virt.libvirt.designer import DirectBoot, DiskRole
from compute_agent.virt.libvirt.disk_making import DiskMaker
from compute_agent.virt.libvirt.local_disks import LocalDisk
from compute_agent.virt.libvirt.volumes import connect as volumes
from compute_agent.virt.libvirt.volumes import connection as volume_connection

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle

LOG = logging.getLogger(__name__)

DIRECT = "direct:"
"""What tokens begin with where no operation runs."""
_KINDS: Mapping[str, Callable[[LocalDisk], bool]] = {
    "disk": lambda disk: disk.role is DiskRole.ROOT,
    "image_disks": lambda disk: disk.role is DiskRole.IMAGE,
    "blank_disks": lambda disk: disk.image is None,
}
"""The steps that make disks, in order, and which disks each makes."""


class Spawn:
    """One spawn.

    :param extras: further arguments of the member by name
    """

    def __init__(
        self,
        driver: "LibvirtLifecycle",
        instance: Instance,
        image: Image | None,
        vifs: list[Vif],
        extras: Mapping[str, Any],
    ) -> None:
        self._driver = driver
        self._instance = msgspec.structs.replace(instance.named(), image=image)
        self._vifs = vifs
        self._extras = extras
        self._paths = driver._paths(instance)
        self._uuid = instance.uuid
        self._maker = DiskMaker(driver, self._instance, self._paths)
        self._noted: list[LocalDisk] | None = None
        self._given = drives.Given(
            instance=self._instance,
            vifs=vifs,
            admin_password=extras.get("admin_password"),
            injected_files=extras.get("injected_files") or (),
        )

    def steps(self) -> list[Step]:
        """Return the parts."""
        made = [Step("check", self._check, self._begun, self._leave_nothing, self._check_detail)]
        wanted = self._wanted_disks()
        if any(disk.image for disk in wanted):
            made.append(Step("image", self._fetch, detail=self._image_detail))
        if self._instance.kernel is not None:
            made.append(Step("kernel", self._fetch_kernel))
        made.append(Step("directory", self._make_directory, self._has_good_directory, self._drop_directory))
        if any(disk.encrypted for disk in wanted):
            made.append(Step("keys", self._make_keys))
        made += [
            Step(name, functools.partial(self._make_disks, kind), functools.partial(self._have_disks, kind))
            for name, kind in _KINDS.items()
            if any(kind(disk) for disk in wanted)
        ]
        if drives.is_wanted(self._given):
            made.append(Step("config_drive", self._make_config_drive, self._has_config_drive))
        if self._has_volumes():
            made.append(Step("volumes", self._connect_volumes, undo=self._disconnect_volumes))
        made.append(Step("define", self._define, self._is_defined, self._undefine, self._define_detail))
        made.append(Step("start", self._start, self._is_started, self._stop))
        return made

    @functools.cached_property
    def _token(self) -> str:
        return steps.current().operation_id or f"{DIRECT}{uuid.uuid4().hex}"

    # --- check -------------------------------------------------------------------------------------

    def _check(self) -> None:
        for check in self._checks():
            check()

    def _checks(self) -> list[Callable[[], object]]:
        driver = self._driver
        return [
            lambda: driver._check_filters(self._instance, self._vifs),
            lambda: driver._on_disk(drives.check, self._given),
            self._maker.check,
            lambda: volume_connection.of_instance(self._instance, self._paths),
            lambda: designer.check(self._instance, facts=driver._facts(), settings=driver._settings()),
            lambda: driver._on_disk(self._check_host, driver._facts().cpus),
            self._check_unused,
        ]

    def _check_host(self, cpus: int) -> None:
        """In a native thread."""
        networks.check(self._vifs)
        try:
            needed: int | None = local_disks.promised_bytes(self._instance)
        except errors.ComputeError:
            needed = None  # the check of the disks tells what is wrong with them
        room.check(self._instance.flavor, cpus, self._paths.instances_path, needed)

    def _check_unused(self) -> None:
        taken = self._driver._host.ask(admission.who_has, self._uuid, self._instance.name)
        if taken is not None:
            raise errors.InstanceExists(f"the hypervisor has a domain of that {taken}")
        if not self._driver._on_disk(files.is_free, self._paths):
            raise errors.InstanceExists(
                f"files of the instance are here already: {self._paths.directory}",
                hint="destroy removes them",
            )

    def _begun(self) -> bool:
        """Whether an attempt of this operation got past the checks."""
        return steps.current().resumed and (self._has_directory() or self._is_defined())

    def _check_detail(self) -> Mapping[str, Any]:
        return {"problems": [problem for check in self._checks() for problem in _problems_of(check)]}

    # --- files -------------------------------------------------------------------------------------

    def _wanted_disks(self) -> list[LocalDisk]:
        """Return the disks to make; none if they can't be told: then the checks tell why."""
        try:
            return self._maker.wanted()
        except errors.ComputeError:
            return []

    def _fetch(self) -> None:
        self._maker.fetch(self._maker.wanted())

    def _image_detail(self) -> Mapping[str, Any]:
        return self._maker.fetch_detail(self._wanted_disks())

    def _fetch_kernel(self) -> None:
        self._driver._direct_boot(self._instance)

    def _make_directory(self) -> None:
        self._driver._on_disk(self._write_notes)

    def _write_notes(self) -> None:
        """In a native thread. The owner's note comes last: it says that the directory is ours."""
        if fencing.is_from_before_boot(self._paths):
            fencing.remove(self._paths)  # what the host had not written when it went down looks finished
        files.prepare_directory(self._paths)
        self._maker.note()
        files.make_directory(self._paths, fencing.owner(self._instance.generation, self._token))

    def _has_directory(self) -> bool:
        owner = self._driver._on_disk(files.read_owner, self._paths)
        return owner is not None and owner.operation_id == self._token

    def _has_good_directory(self) -> bool:
        """Whether it is ours and what is in it can be relied on."""
        return self._has_directory() and not self._driver._on_disk(fencing.is_from_before_boot, self._paths)

    def _noted_disks(self) -> list[LocalDisk]:
        """Return the disks to make, as they were noted."""
        if self._noted is None:
            self._noted = self._driver._on_disk(self._maker.noted)
        return self._noted

    def _make_keys(self) -> None:
        self._maker.make_keys(self._noted_disks())

    def _make_disks(self, kind: Callable[[LocalDisk], bool]) -> None:
        self._maker.make(disk for disk in self._noted_disks() if kind(disk))

    def _have_disks(self, kind: Callable[[LocalDisk], bool]) -> bool:
        return all(self._maker.is_made(disk) for disk in self._noted_disks() if kind(disk))

    def _make_config_drive(self) -> None:
        self._driver._on_disk(configdrive.make, self._given, self._paths.config_drive)

    def _has_config_drive(self) -> bool:
        return self._driver._on_disk(files.is_there, self._paths.config_drive)

    def _has_volumes(self) -> bool:
        return any(device.source_type is SourceType.VOLUME for device in self._instance.block_device_mapping)

    def _connect_volumes(self) -> None:
        volumes.connect_all(self._driver, self._instance)

    def _disconnect_volumes(self) -> None:
        if self._has_directory():
            volumes.disconnect_all(self._driver, self._instance)

    def _drop_directory(self) -> None:
        if self._has_directory():
            self._driver._on_disk(fencing.remove, self._paths)
        else:
            self._driver._on_disk(files.remove_unowned, self._paths)

    # --- the domain --------------------------------------------------------------------------------

    def _define(self) -> None:
        xml = self._design(self._driver._direct_boot(self._instance), self._token)
        try:
            self._driver._host.act(_define, xml)
        except errors.HypervisorError:
            self._raise_if_taken()
            raise

    def _raise_if_taken(self) -> None:
        """Somebody may have defined a domain of that name since it was checked."""
        taken = self._driver._host.ask(admission.who_has, self._uuid, self._instance.name)
        if taken is not None and not self._is_defined():
            raise errors.InstanceExists(f"the hypervisor has a domain of that {taken}") from None

    def _design(self, boot: DirectBoot | None, operation_id: str | None) -> str:
        settings = self._driver._settings()
        domain = designer.design(
            self._instance,
            facts=self._driver._facts(),
            settings=settings,
            paths=self._paths,
            disks=self._driver._on_disk(disks.of, configdrive.asking(self._given), self._paths, settings),
            vifs=self._vifs,
            boot=boot,
            operation_id=operation_id,
        )
        return domain.to_xml()

    def _define_detail(self) -> Mapping[str, Any]:
        instance = self._instance
        boot = None
        if instance.kernel is not None:
            # Where they will lie is known when they have been fetched; a plan shows where they come from.
            boot = DirectBoot(kernel=instance.kernel, ramdisk=instance.ramdisk, cmdline=instance.cmdline)
        try:
            return {"domain_xml": self._design(boot, steps.current().operation_id)}
        except errors.ComputeError:
            return {}  # the checks tell why

    def _is_defined(self) -> bool:
        """Whether our domain is there: one that this very operation made."""
        try:
            xml = self._driver._host.ask_guest(self._uuid, guest.definition)
        except errors.InstanceNotFound:
            return False
        found = metadata.read(xml)
        return found is not None and found.operation_id == self._token

    def _undefine(self) -> None:
        if self._is_defined():
            self._driver._undefine(self._uuid)

    def _start(self) -> None:
        try:
            self._driver._start(self._instance, self._vifs, self._instance.start_paused)
        except errors.HypervisorError as error:
            raise self._driver._with_last_words(error, self._instance) from error

    def _is_started(self) -> bool:
        return self._driver._power_state(self._uuid) in (PowerState.RUNNING, PowerState.PAUSED)

    def _stop(self) -> None:
        if self._is_defined():
            self._driver._stop(self._uuid)

    def _leave_nothing(self) -> None:
        self._stop()
        self._undefine()
        self._drop_directory()


def _problems_of(check: Callable[[], object]) -> list[errors.Error]:
    try:
        check()
    except errors.ComputeError as error:
        return [error.to_error()]
    return []


def _define(connection: libvirt.virConnect, xml: str) -> None:
    connection.defineXML(xml)

# SPDX-License-Identifier: Apache-2.0
"""Rescue: a guest runs from another image, its own root disk as the second one.

Whether a guest is rescued shows in its definition: its first disk is the rescue disk. So a reboot, a power
cycle and a restart of the agent keep it rescued, and each step finds out how far an interrupted attempt came.
The definition from before is not kept: unrescue designs the guest again from its record.

The rescue disk goes last: until then an unrescue that fails can put all back as it was.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.image import DiskFormat, Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt import configdrive as drives
from compute_agent.virt.contract.base import Context, NetworkInfo
from compute_agent.virt.images import disks as image_disks
from compute_agent.virt.images.part import disk_error
from compute_agent.virt.libvirt import configdrive, fencing, files
from compute_agent.virt.libvirt.config import element
from compute_agent.virt.libvirt.designer import DiskRole, GuestDisk
from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.renewal import Renewal

LOG = logging.getLogger(__name__)

RESCUE, UNRESCUE = "rescue", "unrescue"
"""The notes in the instance's directory of a work under way."""
RESCUED = "rescued"
"""The note of how a guest was rescued."""
FORMAT = "qcow2"
DRIVE = "disk.config.rescue"
_DEVICE, _BUS = "hw_rescue_device", "hw_rescue_bus"


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A work under way.

    :param boot_id: of the host, when it began
    :param ran: whether the guest was up before
    """

    operation_id: str
    boot_id: str
    ran: bool


class Rescued(msgspec.Struct, frozen=True, kw_only=True):
    """How a guest was rescued; stands in its directory for as long as it is.

    :param direct: it boots from the instance's kernel, as it does else
    :param device, bus: of the rescue disk; None: the usual one
    """

    direct: bool
    device: str = "disk"
    bus: str | None = None


def shows(definition: str, paths: InstancePaths) -> bool:
    """Return whether a domain's XML is that of a rescued guest."""
    sources = element.parse(definition).findall("devices/disk/source")
    return any(source.get("file") == paths.rescue_disk for source in sources)


def drop_files(paths: InstancePaths) -> None:
    """Remove all that is for a rescue alone, if there is any. In a native thread; the disk goes first.

    :raises PermissionDenied: if it may not be removed
    """
    try:
        image_disks.remove(paths.rescue_disk)
        configdrive.remove(paths.file(DRIVE))
        files.drop_note(paths, RESCUED)
        files.drop_note(paths, RESCUE)
    except OSError as error:
        raise disk_error(error, paths.directory) from None


class _Rescue(Renewal):
    """What rescue and unrescue share."""

    def _rescued(self) -> bool:
        """Whether the next start is one from the rescue disk."""
        definition = self._definition()
        if definition is None:
            raise errors.InstanceNotFound(
                f"the hypervisor has no domain {self._uuid}", hint="rebuild makes it anew"
            )
        return shows(definition, self._paths)

    def _note_as(self, name: str, ran: bool) -> None:
        note = Note(operation_id=self._token, boot_id=fencing.boot_id(), ran=ran)
        self._driver._on_disk(files.write_note, self._paths, name, note)

    def _noted(self, name: str) -> Note | None:
        """Return the note of this very work."""
        note = self._driver._on_disk(files.read_note, self._paths, name, Note)
        return note if note is not None and note.operation_id == self._token else None

    def _has_disk(self) -> bool:
        return self._driver._on_disk(files.is_there, self._paths.rescue_disk)

    def _has_drive(self) -> bool:
        return self._driver._on_disk(files.is_there, self._drive)

    @property
    def _drive(self) -> str:
        """The config drive of the rescue system."""
        return self._paths.file(DRIVE)

    def _define_rescued(self) -> None:
        how = self._driver._on_disk(files.read_note, self._paths, RESCUED, Rescued) or Rescued(direct=False)
        boot = self._driver._direct_boot(self._instance) if how.direct else None
        self._define(self._design(self._rescue_disks(how), boot))

    def _rescue_disks(self, how: Rescued) -> list[GuestDisk]:
        """Return the rescue disk, and behind it the instance's own in their order, named in that order."""
        first = GuestDisk(
            source=self._paths.rescue_disk,
            format=FORMAT,
            role=DiskRole.ROOT,
            boot_index=0,
            bus=how.bus,
            device=how.device,
            serial="rescue",
        )
        own = [
            dataclasses.replace(disk, boot_index=None, target=None)
            for disk in self._own_disks()
            if disk.role is not DiskRole.CONFIG_DRIVE
        ]
        if not self._has_drive():
            return [first, *own]
        drive = self._driver._on_disk(configdrive.guest_disk, self._instance, self._paths, path=self._drive)
        return [first, *own, drive] if drive else [first, *own]

    def _put_back(self) -> None:
        """Give the guest its own definition again."""
        self._define(self._design(self._own_disks(), self._driver._direct_boot(self._instance)))


class Rescue(_Rescue):
    """One rescue.

    :param image: what to boot from; None if neither the request nor the instance names one
    :param password: the administrator's in the rescue system
    """

    def __init__(
        self,
        driver: LibvirtLifecycle,
        instance: Instance,
        vifs: NetworkInfo,
        image: Image | None,
        password: str | None,
    ) -> None:
        super().__init__(driver, instance, vifs or ())
        self._image = image
        self._given = drives.Given(instance=self._instance, vifs=self._vifs, admin_password=password)

    def steps(self) -> list[Step]:
        """Return the parts."""
        return [
            Step("check", self._check, self._begun),
            Step("image", self._fetch, detail=self._image_detail),
            Step("note", self._note, self._is_noted, self._drop),
            Step("disk", self._make_disk, self._has_disk),
            Step("config_drive", self._make_drive, self._has_drive),
            Step("stop", self._end, self._is_defined, self._run_again),
            Step("define", self._define_rescued, self._is_defined, self._take_back),
            Step("start", self._start, self._is_up, self._end_rescue),
        ]

    def _check(self) -> None:
        self._rescued()
        self._check_own()
        if self._image is None:
            raise errors.InvalidArguments(
                "there is nothing to boot from: the instance has no image, and no rescue_image is named"
            )
        self._driver._on_disk(drives.check, self._given)
        self._design(self._own_disks(), None)
        self._design(self._rescue_disks(self._how()), None)

    def _begun(self) -> bool:
        return self._noted(RESCUE) is not None

    def _is_noted(self) -> bool:
        """Whether it has begun, and what was written since can be relied on."""
        note = self._noted(RESCUE)
        return note is not None and note.boot_id == fencing.boot_id()

    def _fetch(self) -> None:
        assert self._image is not None
        self._cached = self._driver._images.ensure(self._image)
        if self._how().direct:
            self._driver._direct_boot(self._instance)

    def _image_detail(self) -> Mapping[str, Any]:
        assert self._image is not None
        cached = self._driver._images.cached(self._image)
        return {"bytes": 0 if cached else self._image.size_bytes, "cached": cached is not None}

    def _how(self) -> Rescued:
        """A guest that boots from a kernel does so again from a fresh copy of its own image, which need not
        boot by itself; another image has to."""
        image = self._image
        assert image is not None
        asked = {key: value.strip().lower() for key, value in image.properties.items()}
        optical = image.disk_format is DiskFormat.ISO
        return Rescued(
            direct=self._instance.kernel is not None and image == self._instance.image,
            device=asked.get(_DEVICE, "cdrom" if optical else "disk"),
            bus=asked.get(_BUS),
        )

    def _note(self) -> None:
        """Take down how it was; what an earlier rescue left behind is not taken for ours."""
        self._driver._on_disk(drop_files, self._paths)
        self._driver._on_disk(files.write_note, self._paths, RESCUED, self._how())
        self._note_as(RESCUE, self._is_up())

    def _drop(self) -> None:
        """Remove all that was made, unless the guest still stands on it."""
        if self._begun() and not self._rescued():
            self._driver._on_disk(drop_files, self._paths)

    def _make_disk(self) -> None:
        cached = self._cached
        size = image_disks.root_size(0, cached.virtual_size)
        image_disks.create_overlay(self._paths.rescue_disk, cached.path, cached.format, size)

    def _make_drive(self) -> None:
        has_one = self._driver._on_disk(files.is_there, self._paths.config_drive)
        if not (has_one or drives.is_wanted(self._given)):
            return
        given = self._driver._on_disk(configdrive.recalled, self._given, self._paths)
        self._driver._on_disk(configdrive.make, given, self._drive)

    def _is_defined(self) -> bool:
        return self._made_by_us(self._definition()) and self._rescued()

    def _run_again(self) -> None:
        note = self._noted(RESCUE)
        if note is not None and note.ran and not (self._rescued() or self._is_up()):
            self._start()

    def _take_back(self) -> None:
        if self._begun() and self._rescued():
            self._put_back()

    def _end_rescue(self) -> None:
        if self._is_defined():
            self._end()


class Unrescue(_Rescue):
    """One unrescue."""

    def __init__(self, driver: LibvirtLifecycle, instance: Instance, vifs: NetworkInfo) -> None:
        super().__init__(driver, instance, vifs or ())

    def steps(self) -> list[Step]:
        """Return the parts."""
        return [
            Step("check", self._check),
            Step("note", self._note, self._begun, self._drop_note),
            Step("stop", self._end, self._is_out, self._run_again),
            Step("define", self._put_back, self._is_out, self._rescue_again),
            Step("start", self._start, self._is_up, self._end_own),
            Step("disk", self._drop, self._has_dropped),
        ]

    def _check(self) -> None:
        self._rescued()
        self._check_own()
        self._design(self._own_disks(), self._driver._direct_boot(self._instance))

    def _begun(self) -> bool:
        return self._noted(UNRESCUE) is not None

    def _note(self) -> None:
        self._note_as(UNRESCUE, self._rescued() and self._is_up())

    def _drop_note(self) -> None:
        self._driver._on_disk(files.drop_note, self._paths, UNRESCUE)

    def _is_out(self) -> bool:
        return not self._rescued()

    def _can_go_back(self) -> bool:
        """Whether the guest has left its rescue and could be put back into it, by us."""
        return self._begun() and self._has_disk() and not self._rescued()

    def _run_again(self) -> None:
        note = self._noted(UNRESCUE)
        if note is not None and note.ran and self._rescued() and not self._is_up():
            self._start()

    def _rescue_again(self) -> None:
        if self._can_go_back():
            self._define_rescued()

    def _end_own(self) -> None:
        if self._can_go_back():
            self._end()

    def _drop(self) -> None:
        self._driver._on_disk(drop_files, self._paths)
        self._drop_note()

    def _has_dropped(self) -> bool:
        return not (self._has_disk() or self._begun())


class LibvirtRescue(LibvirtLifecycle):
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
        steps.run(Rescue(self, instance, network_info, image_meta, rescue_password).steps())

    def unrescue(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Restart a rescued guest from its own disk."""
        steps.run(Unrescue(self, instance, network_info).steps())

# SPDX-License-Identifier: Apache-2.0
"""Which disks a guest has: the one place that says so.

Whoever designs a domain asks here, at the first spawn as after a HARD reboot, a rebuild or a move: what is
missing in the answer, the guest loses.
"""

import dataclasses
from collections.abc import Sequence

from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import config, configdrive, keys, local_disks
from compute_agent.virt.libvirt.design_devices import DiskRole, GuestDisk
from compute_agent.virt.libvirt.facts import DiskSettings, Settings
from compute_agent.virt.libvirt.local_disks import LocalDisk
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.volumes import connection as volumes

__all__ = ["guest_disk", "keeping_names", "of"]

_DIRECT = frozenset({"none", "directsync"})


def of(instance: Instance, paths: InstancePaths, settings: Settings) -> list[GuestDisk]:
    """Return the disks of ``instance``: root, ephemerals, swap, further images, volumes, config drive.

    In a native thread: it reads the instance's directory, and works before that is there (for a plan).

    :raises PermissionDenied: if the directory can't be read: unknown is not gone
    :raises InvalidArguments, UnsupportedOperation: if the instance asks for a disk that can't be
    """
    found = [guest_disk(disk, paths, settings) for disk in local_disks.of(instance, paths, settings)]
    found += volumes.guest_disks(instance, paths)
    drive = configdrive.guest_disk(instance, paths)
    return [*found, drive] if drive else found


def keeping_names(wanted: Sequence[GuestDisk], domain: config.Domain) -> list[GuestDisk]:
    """Return ``wanted`` with the names that ``domain`` has for those disks for which nobody wished another.

    A guest may have written down ``/dev/vdc``: it stays so, though what was ``/dev/vdb`` is gone.
    """
    present = [] if domain.devices is None else domain.devices.disks
    names = {disk.source_file or disk.source_device or disk.serial: disk.target for disk in present}
    return [
        disk
        if disk.target or not (name := names.get(disk.source or disk.serial))
        else dataclasses.replace(disk, target=f"/dev/{name}")
        for disk in wanted
    ]


def guest_disk(disk: LocalDisk, paths: InstancePaths, settings: Settings) -> GuestDisk:
    """Return a disk of this host as the guest's."""
    cache = settings.disks.cache.get("file")
    return GuestDisk(
        source=paths.file(disk.name),
        format=disk.format,
        role=disk.role,
        bus=disk.device.disk_bus,
        device=disk.device.device_type or "disk",
        target=disk.device.mountpoint,
        serial=disk.serial,
        read_only=disk.device.read_only,
        boot_index=_boot_index(disk),
        cache=cache,
        io=_io(settings.disks, cache),
        discard=settings.disks.discard == "unmap",
        detect_zeroes=settings.disks.detect_zeroes,
        luks_secret=keys.secret_uuid(paths.uuid, disk.name) if disk.encrypted else None,
    )


def _boot_index(disk: LocalDisk) -> int | None:
    """A root disk is booted from, also where other devices say that they can be."""
    wish = disk.device.boot_index
    return 0 if wish is None and disk.role is DiskRole.ROOT else wish


def _io(settings: DiskSettings, cache: str | None) -> str | None:
    """QEMU's ``native`` is for files that are opened past the page cache."""
    return None if settings.io == "native" and cache not in _DIRECT else settings.io

# SPDX-License-Identifier: Apache-2.0
"""Which files of a guest go over: those of its directory that are not this host's alone, and its keys.

These functions run in native threads, or on the hub where they say so.
"""

import os
import posix
from collections.abc import Iterable

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.images import qemu_img, stamp, usage
from compute_agent.virt.images.part import disk_error
from compute_agent.virt.libvirt import keys, local_disks
from compute_agent.virt.libvirt.coldmigration.details import SMALL_ROOM, Base, Moved
from compute_agent.virt.libvirt.coldmigration.ranges import SECTOR
from compute_agent.virt.libvirt.facts import Settings
from compute_agent.virt.libvirt.migration import storage
from compute_agent.virt.libvirt.paths import InstancePaths

_QCOW2_ROOM = 64 * 1024 * 1024
_QCOW2_SHARE = 256
"""A qcow2 file takes less than this part more than the disk in it, for its tables."""


def moved(paths: InstancePaths, directory: str, sizes: dict[str, int], encrypted: bool) -> list[Moved]:
    """Return the files that go over.

    :param directory: where the instance's files are now
    :param sizes: what the guest sees of its disks, in bytes, by name
    :param encrypted: the keys go over too
    """
    found = [_file(directory, name, sizes.get(name, 0)) for name in storage.own_files(directory)]
    if encrypted:
        found += [_key(paths.uuid, name, len(key)) for name, key in sorted(keys.of(paths.uuid).items())]
    return found


def _file(directory: str, name: str, virtual_size: int) -> Moved:
    path = os.path.join(directory, name)
    try:
        found = posix.stat(path)
        base = os.path.basename(usage.backing_of(path))
    except OSError as error:
        raise disk_error(error, path) from None
    most = max(found.st_size, virtual_size)
    room = most + (most // _QCOW2_SHARE + _QCOW2_ROOM if virtual_size else SMALL_ROOM)
    return Moved(
        kind="file",
        name=name,
        size_bytes=found.st_size,
        room_bytes=room,
        used_bytes=found.st_blocks * SECTOR,
        mode=found.st_mode & 0o777,
        base=base if usage.NAME.fullmatch(base) else None,
    )


def _key(uuid: str, name: str, size: int) -> Moved:
    return Moved(kind="key", name=name, size_bytes=size, room_bytes=SMALL_ROOM)


def bases(found: Iterable[Moved], cache: str) -> list[Base]:
    """Return the cached images that the files stand on.

    :param cache: directory of the image cache
    :raises MigrationRefused: if one is not there, or not what its stamp says
    """
    names = sorted({file.base for file in found if file.base is not None})
    return [_base(os.path.join(cache, name)) for name in names]


def _base(path: str) -> Base:
    known = stamp.read(path)
    if known is None or known.format not in ("raw", "qcow2"):
        raise errors.MigrationRefused(f"a disk stands on an image that can't be relied on: {path}")
    return Base(
        name=os.path.basename(path),
        format=known.format,  # type: ignore[arg-type]
        virtual_size=known.virtual_size,
        size_bytes=known.size,
        source_size=known.source_size,
        sha256=known.sha256,
        file_sha256=known.contents_sha256,
    )


def virtual_sizes(instance: Instance, paths: InstancePaths, settings: Settings) -> dict[str, int]:
    """Return how large a guest sees its disks of this host, by name, in bytes. On the hub.

    :raises HypervisorError: if one can't be read as what was noted of it
    """
    made = local_disks.of(instance, paths, settings)
    there = [(disk, paths.file(disk.name)) for disk in made]
    return {
        disk.name: qemu_img.info(path, disk.format).virtual_size
        for disk, path in there
        if os.path.exists(path)
    }


def check_growth(instance: Instance, sizes: dict[str, int], settings: Settings) -> None:
    """Hold the disks against those that the instance is to have: swap may change, nothing else gets smaller.

    :param instance: with its new flavor
    :raises MigrationRefused: if a disk would have to shrink, or to go
    """
    wanted = {disk.name: disk.size_bytes for disk in local_disks.wanted(instance, settings)}
    for name, size in sizes.items():
        if name == local_disks.SWAP:
            continue
        if name not in wanted:
            raise errors.MigrationRefused(f"the instance would lose {name}: the flavor has no such disk")
        if 0 < wanted[name] < size:
            raise errors.MigrationRefused(
                f"{name} would have to shrink from {size} to {wanted[name]} bytes",
                hint="take a flavor whose disks are as large, or spawn another instance",
            )

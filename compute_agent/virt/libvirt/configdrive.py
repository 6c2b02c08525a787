# SPDX-License-Identifier: Apache-2.0
"""The config drive of a guest as a file beside its disks. These functions run in native threads.

An instance has a drive when the file is there. That is not asked of the record or the configuration again,
which may say something else by now: a HARD reboot, a rescue and a migration take the drive as it is. The file
also holds what is on no record once the spawn is over (the administrator's password, injected files), so it
is carried, not made again, wherever the instance goes.

The file may be read by its owner alone, and libvirt makes QEMU's user the owner while the guest runs.
"""

import contextlib
import dataclasses
import glob
import json
import os
import posix
import uuid
import zlib
from base64 import b64encode
from typing import Any

import msgspec

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt import configdrive
from compute_agent.virt.configdrive import Given, drive
from compute_agent.virt.configdrive.content import SIZE_LIMIT
from compute_agent.virt.images.part import disk_error, sync_directory
from compute_agent.virt.libvirt import files
from compute_agent.virt.libvirt.config import DiskBus
from compute_agent.virt.libvirt.design_devices import DiskRole, GuestDisk
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.properties import Properties

MODE = 0o600
FILE_LIMIT = 2 * SIZE_LIMIT
"""Bytes that the file of a drive has at most: its files, and the file system around them."""
_PART = ".part"
_ALWAYS_WRITABLE = (DiskBus.SATA, DiskBus.IDE)
"""Disks there can't be read-only: QEMU has no such device."""
_BLOCK = 64 * 1024


def guest_disk(instance: Instance, paths: InstancePaths, path: str | None = None) -> GuestDisk | None:
    """Return the drive as a disk of its guest; None if the instance has none.

    Where none is made yet (in a plan), it is the one that the instance asks for.

    :param path: of another drive than the instance's own (a rescued guest's)
    :raises PermissionDenied: if it can't be told whether there is one
    """
    path = path or paths.config_drive
    if files.is_there(path):
        drive_format = _format(path)
    elif configdrive.is_wanted(Given(instance=instance)):
        drive_format = CONF.config_drive_format
    else:
        return None
    device = "disk" if drive_format == drive.VFAT else CONF.config_drive_device
    return GuestDisk(
        source=path,
        format="raw",
        role=DiskRole.CONFIG_DRIVE,
        device=device,
        read_only=device == "cdrom" or Properties.of(instance).disk_bus not in _ALWAYS_WRITABLE,
    )


def asking(given: Given) -> Instance:
    """Return the instance so that it asks for a drive by itself if what is ``given`` does."""
    asks = configdrive.is_wanted(given)
    return msgspec.structs.replace(given.instance, config_drive=asks)


def make(given: Given, path: str) -> None:
    """Write the drive with what is ``given``, in place of the one that is there. Repeating it is harmless.

    :param path: a file in the instance's directory (``paths.config_drive``)
    :raises InvalidArguments: if what is given is malformed
    :raises MessageTooLarge: if it is more than a drive takes
    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
    """
    contents = configdrive.files(given)
    _write(path, configdrive.build(contents, CONF.config_drive_format, configdrive.label(given)))


def recalled(given: Given, paths: InstancePaths) -> Given:
    """Return ``given`` with what its instance lacks and its present drive has.

    An instance that was put on record again from its domain's description has lost its user data and
    vendor data, which no description holds. A drive that is made anew must not lose them too.
    """
    instance = given.instance
    if instance.user_data is not None and instance.vendor_data:
        return given
    known = _read(paths.config_drive)
    user_data = known.get("openstack/latest/user_data")
    found = msgspec.structs.replace(
        instance,
        user_data=instance.user_data or (None if user_data is None else b64encode(user_data).decode()),
        vendor_data=instance.vendor_data or _object(known.get("openstack/latest/vendor_data.json", b"")),
    )
    return dataclasses.replace(given, instance=found)


def _object(text: bytes) -> dict[str, Any]:
    """Return the object in ``text``; an empty one if there is none: some guests can write to their drive."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def pack(paths: InstancePaths) -> bytes | None:
    """Return the drive as bytes that go to another host; None if there is none.

    :raises PermissionDenied: if it can't be read
    """
    if not files.is_there(paths.config_drive):
        return None
    return zlib.compress(_load(paths.config_drive))


def unpack(paths: InstancePaths, packed: bytes) -> None:
    """Write the drive that another host has packed. Repeating it is harmless.

    :raises InvalidArguments: if it was not packed so, or is too large
    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, FILE_LIMIT)
    except zlib.error:
        data = b""
    if not unpacker.eof:
        raise errors.InvalidArguments("what was to be a config drive is none")
    _write(paths.config_drive, data)


def _format(path: str) -> str | None:
    """Return the format of the drive at ``path``; None if it is none of ours."""
    try:
        with files.plain_file(path) as (fd, _):
            return drive.format_of(os.pread(fd, drive.HEAD_BYTES, 0))
    except OSError as error:
        raise disk_error(error, path) from None


def _load(path: str) -> bytes:
    try:
        with files.plain_file(path) as (fd, size):
            return os.pread(fd, min(size, FILE_LIMIT), 0)
    except OSError as error:
        raise disk_error(error, path) from None


def _read(path: str) -> dict[str, bytes]:
    """Return the files of the drive at ``path``; none where it can't be read."""
    try:
        return drive.read(_load(path))
    except (ValueError, errors.ComputeError):
        return {}


def _write(path: str, data: bytes) -> None:
    """Write the file so that it has its name only when it is whole; what attempts before it left goes."""
    try:
        remove_unfinished(path)
        part = f"{path}.{uuid.uuid4().hex[:12]}{_PART}"
        fd = posix.open(part, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, MODE)
        try:
            _fill(fd, data)
        finally:
            posix.close(fd)
        posix.rename(part, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        with contextlib.suppress(OSError):
            remove_unfinished(path)
        raise disk_error(error, path) from None


def _fill(fd: int, data: bytes) -> None:
    """Write ``data`` with holes where it is empty, and bring it to the disk."""
    for start in range(0, len(data), _BLOCK):
        view = memoryview(data)[start : start + _BLOCK]
        while view and view != bytes(len(view)):
            view = view[posix.pwrite(fd, view, start + min(_BLOCK, len(data) - start) - len(view)) :]
    posix.ftruncate(fd, len(data))
    posix.fsync(fd)


def remove(path: str) -> None:
    """Delete the drive, and what attempts at it left. One that is not there is no error.

    :raises PermissionDenied: if it may not be deleted
    """
    try:
        remove_unfinished(path)
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(path)
    except OSError as error:
        raise disk_error(error, path) from None


def remove_unfinished(path: str) -> None:
    """Delete what interrupted attempts at the drive left. Raises OSError."""
    for left in glob.glob(f"{glob.escape(path)}.*{_PART}"):
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(left)

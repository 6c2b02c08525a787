# SPDX-License-Identifier: Apache-2.0
"""The storage side of a live migration: whether two hosts see the same files, and what goes along.

These functions run in native threads. A mark is an empty file; who sees it by its name sees the storage that
it was left on.
"""

import base64
import contextlib
import hashlib
import os
import re
import uuid
import zlib

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import clock, errors
from compute_agent.virt.images.part import disk_error
from compute_agent.virt.libvirt import files, logs
from compute_agent.virt.libvirt.migration.details import FILES_LIMIT, CarriedFile
from compute_agent.virt.libvirt.paths import InstancePaths

_MARK = "shared_storage_mark_"
_IS_MARK = re.compile(rf"{_MARK}[0-9a-f]{{32}}")
_MARK_S = 24 * 3600.0
"""How old a mark is that nobody asks for any more, in seconds, with room for clocks that differ."""
_FILE_LIMIT = 64 * 1024 * 1024
_PART = ".part"
_SECTOR = 512
CONSOLE_LIMIT = 100 * 1024
"""Bytes of the console that go along: as many as are given to who asks for it."""
_CONSOLE_MODE = 0o600
ARRIVING = "arriving"
"""The note of a guest that is to come."""
_STAYS = re.compile(r"owner|arriving|arrived|console\.log.*|.*\.part|.*\.new|reboot|" + _MARK + ".*")
"""Files that say something of this host, or of work in it, alone."""


def leave_mark(directory: str) -> str:
    """Leave a mark in ``directory``; return its name.

    A check that is repeated for the same migration leaves the same mark, so one removal is enough. Marks of
    checks that nobody came back to are removed here when they are old.

    :raises DiskFull, PermissionDenied: if that does not work
    """
    name = name_of_mark()
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        _forget_old_marks(directory)
        os.close(os.open(os.path.join(directory, name), os.O_CREAT | os.O_NOFOLLOW | os.O_WRONLY, 0o644))
    except OSError as error:
        raise disk_error(error, directory) from None
    return name


def name_of_mark() -> str:
    """Return the name of the mark that this host leaves for the running operation."""
    operation_id = steps.current().operation_id or str(uuid.uuid4())
    return f"{_MARK}{uuid.uuid5(uuid.NAMESPACE_OID, f'{operation_id} {CONF.host_name}').hex}"


def _forget_old_marks(directory: str) -> None:
    old = clock.unix() - _MARK_S
    for name in filter(_IS_MARK.fullmatch, os.listdir(directory)):
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(os.path.join(directory, name)).st_mtime < old:
                os.unlink(os.path.join(directory, name))


def sees_mark(directory: str, name: str) -> bool:
    """Return whether a mark that another host has left can be seen here.

    The directory is listed first: a network file system would else answer from what it remembers.
    """
    check_mark(name)
    with contextlib.suppress(FileNotFoundError):
        return name in os.listdir(directory)
    return False


def remove_mark(directory: str, name: str) -> None:
    """Remove a mark, if it is there."""
    check_mark(name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, name))


def check_mark(name: str) -> None:
    """Refuse what is no mark's name.

    :raises InvalidArguments: so that nobody removes or looks for other files by it
    """
    if not _IS_MARK.fullmatch(name):
        raise errors.InvalidArguments("not the name of a mark")


def carried(paths: InstancePaths, disks: set[str]) -> list[CarriedFile]:
    """Return the small files that go along: all but the disks, which QEMU copies, and this host's own.

    :raises MigrationRefused: if they are too large to be sent along
    """
    found = [_packed(paths, name) for name in own_files(paths.directory) if name not in disks]
    if sum(len(file.packed) for file in found) > FILES_LIMIT:
        raise errors.MigrationRefused(
            "the instance's config drive and notes are too large to go along",
            hint="use shared storage, or migrate it cold",
        )
    return found


def spoken(paths: InstancePaths) -> CarriedFile | None:
    """Return the end of what the guest has said on its console until now; None if it said nothing."""
    said = logs.rotated_tail(paths.console_log, CONSOLE_LIMIT)
    return _as_carried(os.path.basename(paths.console_log), said, _CONSOLE_MODE) if said else None


def stays(name: str) -> bool:
    """Return whether a file says something of its host alone: then it is nobody's to send."""
    return _STAYS.fullmatch(name) is not None


def own_files(directory: str) -> list[str]:
    """Return the files of an instance that go with it: all but those that say something of a host alone."""
    return sorted(
        entry.name
        for entry in os.scandir(directory)
        if entry.is_file(follow_symlinks=False) and not _STAYS.fullmatch(entry.name)
    )


def _packed(paths: InstancePaths, name: str) -> CarriedFile:
    try:
        with files.plain_file(paths.file(name)) as (fd, size):
            if size > _FILE_LIMIT:
                raise errors.MigrationRefused(f"{name} of the instance is too large to go along")
            contents, mode = os.pread(fd, size, 0), os.fstat(fd).st_mode & 0o777
    except OSError as error:
        raise disk_error(error, paths.directory) from None
    return _as_carried(name, contents, mode)


def _as_carried(name: str, contents: bytes, mode: int) -> CarriedFile:
    return CarriedFile(
        name=name,
        mode=mode,
        sha256=hashlib.sha256(contents).hexdigest(),
        packed=base64.b64encode(zlib.compress(contents)).decode(),
    )


def unpack(paths: InstancePaths, carried_files: list[CarriedFile]) -> None:
    """Write the files that came along. Repeating it is harmless.

    :raises InvalidArguments: if one is not what it was
    :raises DiskFull, PermissionDenied: if it can't be written
    """
    for file in carried_files:
        if _STAYS.fullmatch(file.name):
            raise errors.InvalidArguments(f"{file.name} of an instance does not go along")
        _write(paths.file(file.name), _contents(file), file.mode)


def go_on_from(paths: InstancePaths, said: CarriedFile | None) -> None:
    """Let a console here go on from what was said elsewhere, as if virtlogd had turned it over just now.

    Raises as :func:`unpack`.
    """
    older = f"{paths.console_log}.0"
    if said is not None and not os.path.exists(older):
        _write(older, _contents(said), _CONSOLE_MODE)


def _contents(file: CarriedFile) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        contents = unpacker.decompress(base64.b64decode(file.packed, validate=True), _FILE_LIMIT)
    except (zlib.error, ValueError):
        contents = b""
    if hashlib.sha256(contents).hexdigest() != file.sha256:
        raise errors.InvalidArguments(f"{file.name} came damaged")
    return contents


def _write(path: str, contents: bytes, mode: int) -> None:
    part = f"{path}{_PART}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        fd = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, path)
    except OSError as error:
        raise disk_error(error, path) from None


def allocated(paths: list[str]) -> int:
    """Return how many bytes files take on their storage; what is gone takes none."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += os.stat(path).st_blocks * _SECTOR
    return total

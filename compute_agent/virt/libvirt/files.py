# SPDX-License-Identifier: Apache-2.0
"""An instance's directory. These functions run in native threads.

The directory holds a note of whose work it is (``owner``), so that after a crash an
operation tells its own unfinished work from somebody else's files.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from compute_agent.virt.images.part import disk_error
from compute_agent.virt.libvirt.paths import InstancePaths

DIRECTORY_MODE = 0o711
"""QEMU's user has to pass through; nobody else has to look."""
_NOTE_LIMIT = 8 * 1024 * 1024
"""Bytes; a note of a domain's definition is as large as libvirt lets that be."""
_BEFORE_OWNER = frozenset({"disk.info", "disk.info.new", "owner.new"})
"""What is in a directory before it is anybody's."""

N = TypeVar("N")


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose the files are: the host, the placement, and the operation that made them.

    ``boot_id`` is the kernel's of the host's boot in which they were made; empty where that is not known.
    """

    host: str
    generation: int
    operation_id: str
    boot_id: str = ""


class Reboot(msgspec.Struct, frozen=True, kw_only=True):
    """A reboot under way: which run of the guest (libvirt's id of it) is to end."""

    operation_id: str
    domain_id: int | None


def make_directory(paths: InstancePaths, owner: Owner) -> None:
    """Make the directory, with the note. Repeating it is harmless.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be made
    """
    prepare_directory(paths)
    try:
        _write(paths.owner, owner)
    except OSError as error:
        raise disk_error(error, paths.directory) from None


def prepare_directory(paths: InstancePaths) -> None:
    """Make the directory, which is nobody's before the note is in it. Raises as :func:`make_directory`."""
    try:
        os.makedirs(paths.instances_path, mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(paths.directory)
        os.chmod(paths.directory, DIRECTORY_MODE)
    except OSError as error:
        raise disk_error(error, paths.directory) from None


def read_owner(paths: InstancePaths) -> Owner | None:
    """Return whose the directory is; None where no note can be read."""
    return _read(paths.owner, Owner)


def is_free(paths: InstancePaths) -> bool:
    """Return whether there are no files: no directory, or one that is nobody's and holds no disk.

    A spawn that was killed before it wrote whose the directory is leaves such a one.
    """
    try:
        return _BEFORE_OWNER.issuperset(os.listdir(paths.directory))
    except FileNotFoundError:
        return True
    except OSError as error:
        raise disk_error(error, paths.directory) from None


def write_reboot(paths: InstancePaths, note: Reboot) -> None:
    """Note that a reboot begins."""
    try:
        _write(paths.file("reboot"), note)
    except OSError as error:
        raise disk_error(error, paths.directory) from None


def read_reboot(paths: InstancePaths) -> Reboot | None:
    """Return the reboot under way, if one was noted."""
    return _read(paths.file("reboot"), Reboot)


def write_note(paths: InstancePaths, name: str, note: msgspec.Struct) -> None:
    """Keep ``note`` in the directory under ``name``; durable on return.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
    """
    try:
        _write(paths.file(name), note)
    except OSError as error:
        raise disk_error(error, paths.directory) from None


def read_note(paths: InstancePaths, name: str, kind: type[N]) -> N | None:
    """Return the note under ``name``; None where none can be read."""
    return _read(paths.file(name), kind)


def drop_note(paths: InstancePaths, name: str) -> None:
    """Remove the note under ``name``, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(paths.file(name))


def is_there(path: str) -> bool:
    """Return whether there is something at ``path``; a link that leads nowhere is something.

    :raises PermissionDenied: if that can't be told: unknown is not gone
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise disk_error(error, path) from None
    return True


def remove_directory(paths: InstancePaths) -> bool:
    """Delete the directory and what an earlier attempt left of it; return whether there was any.

    It loses its name first: what is half deleted is no instance.
    """
    found = False
    try:
        if is_there(paths.removed):
            _delete(paths.removed)
            found = True
        if is_there(paths.directory):
            os.rename(paths.directory, paths.removed)
            _delete(paths.removed)
            found = True
    except OSError as error:
        raise disk_error(error, paths.directory) from None
    return found


def remove_unowned(paths: InstancePaths) -> None:
    """Delete the directory if it is nobody's and holds no disk: as :func:`is_free` finds it."""
    if is_there(paths.directory) and is_free(paths):
        remove_directory(paths)


def _delete(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _write(path: str, note: msgspec.Struct) -> None:
    temporary = f"{path}.new"
    try:
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(note))
            file.flush()
            os.fsync(file.fileno())  # a note that a host's crash has emptied would tell nothing
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _read(path: str, kind: type[N]) -> N | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError), plain_file(path) as (fd, _):
        return msgspec.json.decode(os.pread(fd, _NOTE_LIMIT, 0), type=kind)
    return None


@contextlib.contextmanager
def plain_file(path: str) -> Iterator[tuple[int, int]]:
    """Open a regular file for reading, not through a link; give its descriptor and its size.

    :raises OSError: if it can't be opened, or is something else (a FIFO is not waited for)
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        yield fd, found.st_size
    finally:
        os.close(fd)

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
_NOTE_LIMIT = 65536

N = TypeVar("N")


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose the files are: the host, the placement, and the operation that made them."""

    host: str
    generation: int
    operation_id: str


class Reboot(msgspec.Struct, frozen=True, kw_only=True):
    """A reboot under way: which run of the guest (libvirt's id of it) is to end."""

    operation_id: str
    domain_id: int | None


def make_directory(paths: InstancePaths, owner: Owner) -> None:
    """Make the directory, with the note. Repeating it is harmless.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be made
    """
    try:
        os.makedirs(paths.instances_path, mode=0o755, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(paths.directory)
        os.chmod(paths.directory, DIRECTORY_MODE)
        _write(paths.owner, owner)
    except OSError as error:
        raise disk_error(error, paths.directory) from None


def read_owner(paths: InstancePaths) -> Owner | None:
    """Return whose the directory is; None where no note can be read."""
    return _read(paths.owner, Owner)


def is_free(paths: InstancePaths) -> bool:
    """Return whether there are no files: no directory, or one that is empty and nobody's."""
    try:
        return not os.listdir(paths.directory)
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


def _delete(path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _write(path: str, note: msgspec.Struct) -> None:
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(msgspec.json.encode(note))
        file.flush()
        os.fsync(file.fileno())  # a note that a host's crash has emptied would tell nothing
    os.rename(temporary, path)


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

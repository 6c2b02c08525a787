# SPDX-License-Identifier: Apache-2.0
"""Put a file where a ``file://`` destination names it: whole or not at all, and over nothing.

The directory is opened first, as a handle; what the handle is, links followed, is judged, and
everything then happens relative to it, so nobody can swap a directory for a link in between. The
file grows under a name with the operation's id and ``.part``, and gets its own by a hard link, which
fails where there is something. All of it runs in native threads.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import posix
import stat

import msgspec

from compute_agent.model import errors
from compute_agent.virt.images import sources
from compute_agent.virt.images.part import SUFFIX, disk_error
from compute_agent.virt.images.sources import DESTINATIONS, Source, shown

_MODE = 0o600
"""A guest's data are nobody else's business."""
_BLOCK_BYTES = 64 * 1024
_ZEROS = bytes(_BLOCK_BYTES)
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which file it is, so that it is told from another of its name."""

    device: int
    inode: int
    size: int
    changed_ns: int


def allow(url: str) -> Source:
    """Return the destination of ``url`` if snapshots may go there. In a native thread.

    :raises PermissionDenied: if they may not
    """
    try:
        return sources.allow(url, DESTINATIONS)
    except errors.ImageUnavailable as error:
        raise errors.PermissionDenied(error.message) from None


class Delivery:
    """One file on its way to its place.

    :param token: tells this delivery from others to the same place, and is the same after a crash
    """

    def __init__(self, destination: Source, token: str) -> None:
        assert destination.path is not None
        self._destination = destination
        self._directory, self._name = os.path.split(destination.path)
        self._part = f"{self._name[:150]}.{token}{SUFFIX}"
        self._fd = -1
        self._hash = hashlib.sha256()
        self.size = 0

    def check(self, needed: int = 0) -> None:
        """Say whether it could be put there.

        :param needed: bytes that it takes
        :raises PermissionDenied: if the place is not allowed, is not there, or is taken
        :raises DiskFull: if there is no room
        """
        directory = self._open_directory()
        try:
            if _is_there(self._name, directory):
                raise self._refused("there is something of that name already, and nothing is replaced")
            room = posix.fstatvfs(directory)
        finally:
            posix.close(directory)
        free = room.f_bavail * room.f_frsize
        if needed > free:
            raise errors.DiskFull(f"the snapshot takes {needed} bytes, {free} are free at its destination")

    def begin(self) -> None:
        """Make the file in which it grows; what an earlier attempt left goes. Raises as :meth:`check`."""
        directory = self._open_directory()
        try:
            _unlink(self._part, directory)
            flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
            self._fd = posix.open(self._part, flags, _MODE, dir_fd=directory)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise disk_error(error, self._directory) from None
        finally:
            posix.close(directory)
        self._hash, self.size = hashlib.sha256(), 0

    def copy(self, fd: int, limit: int) -> int:
        """Append at most ``limit`` bytes of ``fd``, from where this file ends; return how many came.

        :raises DiskFull: if there is no room
        """
        try:
            chunk = posix.pread(fd, limit, self.size)
            self._hash.update(chunk)
            for start in range(0, len(chunk), _BLOCK_BYTES):
                self._write(chunk[start : start + _BLOCK_BYTES], self.size + start)
        except OSError as error:
            raise disk_error(error, self._directory) from None
        self.size += len(chunk)
        return len(chunk)

    def _write(self, block: bytes, at: int) -> None:
        view = memoryview(b"" if block == _ZEROS[: len(block)] else block)  # zeros become a hole
        while view:
            written = posix.pwrite(self._fd, view, at)
            view, at = view[written:], at + written

    def complete(self) -> Identity:
        """Bring it to the disk under its full length; return which file it is.

        :raises DiskFull: if there is no room
        """
        try:
            posix.ftruncate(self._fd, self.size)
            posix.fsync(self._fd)
        except OSError as error:
            raise disk_error(error, self._directory) from None
        return _identity(posix.fstat(self._fd))

    def publish(self) -> str:
        """Give it its name; return its SHA-256 in hexadecimal. Durable on return.

        :raises PermissionDenied: if the name is taken by now
        """
        directory = self._open_directory()
        try:
            self._rename(directory)
            posix.fsync(directory)
        except FileExistsError:
            raise self._refused("there is something of that name by now, and nothing is replaced") from None
        except OSError as error:
            raise disk_error(error, self._directory) from None
        finally:
            posix.close(directory)
        self.close()
        return self._hash.hexdigest()

    def _rename(self, directory: int) -> None:
        try:
            posix.link(
                self._part, self._name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False
            )
            posix.unlink(self._part, dir_fd=directory)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if _is_there(self._name, directory):  # as good as it gets where there are no hard links
                raise FileExistsError(self._name) from None
            posix.rename(self._part, self._name, src_dir_fd=directory, dst_dir_fd=directory)

    def close(self) -> None:
        """Let go of the file. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            posix.close(fd)

    def remove(self, published: Identity | None = None) -> None:
        """Remove what there is of it.

        :param published: also the file under its own name, if it is this one
        :raises PermissionDenied: if the place is no longer allowed
        """
        self.close()
        try:
            directory = self._open_directory()
        except errors.PermissionDenied:
            if not os.path.isdir(self._directory):
                return
            raise
        try:
            _unlink(self._part, directory)
            if published is not None and _which(self._name, directory) == published:
                _unlink(self._name, directory)
        except OSError as error:
            raise disk_error(error, self._directory) from None
        finally:
            posix.close(directory)

    def _open_directory(self) -> int:
        """Return a handle of the directory, which is an allowed one.

        :raises PermissionDenied: if it is not, or there is none
        """
        if not self._name or self._name in (".", ".."):
            raise self._refused("it names no file")
        if len(os.fsencode(self._name)) > 255:
            raise self._refused("its name is too long")
        self._make_own()
        try:
            handle = posix.open(self._directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        except OSError as error:
            raise self._refused(f"its directory: {error.strerror}") from None
        try:
            real = posix.readlink(f"/proc/self/fd/{handle}")
            sources.check_place(self._destination, f"{real.rstrip('/')}/{self._name}", DESTINATIONS)
        except errors.ImageUnavailable as error:
            posix.close(handle)
            raise errors.PermissionDenied(error.message) from None
        except BaseException:
            posix.close(handle)
            raise
        return handle

    def _make_own(self) -> None:
        """Make the configured directory itself, if that is where it goes: it may not be there yet."""
        if self._directory in sources.directories(DESTINATIONS):
            with contextlib.suppress(OSError):
                os.makedirs(self._directory, mode=0o700, exist_ok=True)

    def _refused(self, reason: str) -> errors.PermissionDenied:
        return errors.PermissionDenied(f"{shown(self._destination.url)}: {reason}")


def _is_there(name: str, directory: int) -> bool:
    try:
        posix.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _which(name: str, directory: int) -> Identity | None:
    """Return which file has ``name``; None if there is no plain file."""
    try:
        found = posix.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return _identity(found) if stat.S_ISREG(found.st_mode) else None


def _identity(found: os.stat_result) -> Identity:
    return Identity(device=found.st_dev, inode=found.st_ino, size=found.st_size, changed_ns=found.st_mtime_ns)


def _unlink(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        posix.unlink(name, dir_fd=directory)

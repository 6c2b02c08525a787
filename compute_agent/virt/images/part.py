# SPDX-License-Identifier: Apache-2.0
"""A file in the making: hashed while it is written, locked so that nobody else clears it away.

Everything here runs in native threads, but one call at a time; hence ``posix`` and not
``os``, whose functions may belong to the hub.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import posix
import uuid
from collections.abc import Iterable, Iterator

from compute_agent.model import errors

SUFFIX = ".part"
_BLOCK_BYTES = 256 * 1024
_ZEROS = bytes(_BLOCK_BYTES)


class Part:
    """One file in the making, at ``path``. Its maker holds a lock on it for as long as it lives.

    :param final: what it will be called
    :param algorithms: names of hashes to compute, as :mod:`hashlib` has them
    :raises DiskFull: if there is no room
    :raises PermissionDenied: if the directory can't be written
    """

    def __init__(self, final: str, algorithms: Iterable[str] = ("sha256",)) -> None:
        self.final = final
        self.path = f"{final}.{uuid.uuid4().hex[:12]}{SUFFIX}"
        self.size = 0
        self._hashes = {name: hashlib.new(name) for name in algorithms}
        with _typed(self.path):
            self.fd = _create_locked(self.path)

    def take(self, chunk: bytes) -> None:
        """Append ``chunk``; blocks of zeros become holes.

        :raises DiskFull: if there is no room
        """
        for digest in self._hashes.values():
            digest.update(chunk)
        view = memoryview(chunk)
        with _typed(self.path):
            for start in range(0, len(view), _BLOCK_BYTES):
                block = view[start : start + _BLOCK_BYTES]
                if block != _ZEROS[: len(block)]:
                    _write_all(self.fd, block, self.size + start)
        self.size += len(chunk)

    def restart(self) -> None:
        """Forget all that came.

        :raises DiskFull: never in practice; typed as every failure to write is
        """
        with _typed(self.path):
            posix.ftruncate(self.fd, 0)
        self._hashes = {name: hashlib.new(name) for name in self._hashes}
        self.size = 0

    def copy_from(self, fd: int, limit: int) -> int:
        """Append at most ``limit`` bytes of ``fd``, from where this file ends; return how many came.

        :raises ImageUnavailable: if ``fd`` can't be read
        :raises DiskFull: if there is no room
        """
        try:
            chunk = posix.pread(fd, limit, self.size)
        except OSError as error:
            raise errors.ImageUnavailable(f"the image can't be read: {error.strerror}") from None
        self.take(chunk)
        return len(chunk)

    def digest(self, name: str) -> str:
        """Return the hash of all that came, in hexadecimal."""
        return self._hashes[name].hexdigest()

    def complete(self) -> None:
        """Give the file its full length and bring it to the disk.

        :raises DiskFull: if there is no room
        """
        with _typed(self.path):
            posix.ftruncate(self.fd, self.size)
            posix.fsync(self.fd)

    def publish(self) -> None:
        """Give the file its name; durable on return."""
        posix.rename(self.path, self.final)
        sync_directory(os.path.dirname(self.final))

    def close(self) -> None:
        """Give up the file, and delete it if it was not published. May be repeated."""
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(self.path)
        fd, self.fd = self.fd, -1
        if fd >= 0:
            posix.close(fd)


def sweep(directory: str) -> list[str]:
    """Delete what interrupted attempts left in ``directory``; return the names.

    What somebody is making is locked, and stays.
    """
    left = (name for name in posix.listdir(directory) if name.endswith(SUFFIX))
    return [name for name in left if _remove_abandoned(os.path.join(directory, name))]


def _create_locked(path: str) -> int:
    while True:
        fd = posix.open(path, posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if posix.fstat(fd).st_nlink:
            posix.fchmod(fd, 0o644)  # QEMU, which reads it, is somebody else, whatever our umask
            return fd
        posix.close(fd)  # someone swept it away before it was locked


def _remove_abandoned(path: str) -> bool:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not posix.fstat(fd).st_nlink:
            return False  # somebody else removed it, and the name may be a new file's
        posix.unlink(path)
        return True
    except OSError:
        return False
    finally:
        posix.close(fd)


def sync_directory(directory: str) -> None:
    """Bring the names in ``directory`` to the disk."""
    fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        posix.fsync(fd)
    finally:
        posix.close(fd)


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        written = posix.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


@contextlib.contextmanager
def _typed(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from None


def disk_error(error: OSError, path: str) -> errors.ComputeError:
    """Return the typed error for a failure to write ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return errors.DiskFull(f"no room to write {path}: {error.strerror}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return errors.PermissionDenied(f"can't write {path}: {error.strerror}")
    return errors.HypervisorError(f"can't write {path}: {error.strerror}")

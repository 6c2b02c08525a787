# SPDX-License-Identifier: Apache-2.0
"""Room for disks, by the file system's own calls: holes, shared extents, reserved blocks; and swap's header.

These functions run in native threads. Each is a call or two: where the kernel can do it, no program is run.
"""

import ctypes
import errno
import fcntl
import os
import posix
import struct
import uuid

from compute_agent.model import errors
from compute_agent.virt.images.part import disk_error

_FICLONE = 0x40049409
_KEEP_SIZE = 1
_NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS})
MODE = 0o600
"""Of a disk: libvirt hands it to QEMU's user when the guest starts, and nobody else has to read it."""
_PAGE = 4096
_SWAP_SIGNATURE = b"SWAPSPACE2"
_SWAP_HEADER = struct.Struct("<1024xIII16s16s")
_LEAST_SWAP_PAGES = 10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def close_to_others(path: str) -> None:
    """Let nobody but its owner read the file at ``path``, whoever made it.

    :raises PermissionDenied: if that may not be changed
    """
    try:
        posix.chmod(path, MODE)
    except OSError as error:
        raise disk_error(error, path) from None


def blank(path: str, size: int) -> None:
    """Make a file of ``size`` bytes that is one hole.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be made
    """
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, MODE)
        try:
            posix.ftruncate(fd, size)
        finally:
            posix.close(fd)
    except OSError as error:
        raise disk_error(error, path) from None


def clone(source: str, path: str, size: int) -> bool:
    """Make a copy that shares its extents with ``source``, grown to ``size`` bytes; False if it can't be.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be made
    """
    try:
        there = posix.open(source, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            _clone(there, path, size)
        finally:
            posix.close(there)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise disk_error(error, path) from None
        posix.unlink(path)
        return False
    return True


def _clone(there: int, path: str, size: int) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, MODE)
    try:
        fcntl.ioctl(fd, _FICLONE, there)
        posix.ftruncate(fd, max(size, posix.fstat(fd).st_size))
    finally:
        posix.close(fd)


def grow(path: str, size: int) -> None:
    """Give a file ``size`` bytes if it has fewer: a hole at its end.

    :raises DiskFull: if the file system takes no file of that size
    """
    try:
        if posix.stat(path).st_size < size:
            posix.truncate(path, size)
    except OSError as error:
        raise disk_error(error, path) from None


def reserve(path: str, size: int) -> None:
    """Have the file system set aside ``size`` bytes for a file, whose length does not change.

    :raises DiskFull: if there is no room
    :raises HypervisorError: if the file system can't do that
    """
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        if _libc.fallocate(fd, _KEEP_SIZE, 0, size):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise errors.HypervisorError(
                f"the file system of {path} can't set room aside",
                hint="preallocate_images = none does without",
            ) from None
        raise disk_error(error, path) from None
    finally:
        posix.close(fd)


def write_swap_header(path: str, label: str) -> None:
    """Make the file at ``path`` what ``swapon`` takes: the header of Linux, version 1, in pages of 4 KiB.

    :param label: of at most 15 characters
    :raises InvalidArguments: if the file is too small to be of use
    :raises DiskFull: if there is no room
    """
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            pages = posix.fstat(fd).st_size // _PAGE
            if pages < _LEAST_SWAP_PAGES:
                raise errors.InvalidArguments("a swap disk of less than 40 KiB")
            head = _SWAP_HEADER.pack(1, min(pages - 1, 2**32 - 1), 0, uuid.uuid4().bytes, label.encode()[:15])
            posix.pwrite(fd, head, 0)
            posix.pwrite(fd, _SWAP_SIGNATURE, _PAGE - len(_SWAP_SIGNATURE))
        finally:
            posix.close(fd)
    except OSError as error:
        raise disk_error(error, path) from None

# SPDX-License-Identifier: Apache-2.0
"""What a guest's own disk stands on, looked up before qemu-img reads it, by the bytes of its header.

A guest's QEMU may write the disk's file. One that a guest has taken over could make its header name
any file of the host as what it stands on, and a copy of the disk would then hold that file. So a disk is
copied only while it stands on nothing, or on an image of the cache.
"""

import os
import posix
import stat

from compute_agent.model import errors
from compute_agent.virt.images import qcow2


def check(path: str, disk_format: str, cache: str) -> str | None:
    """Look into the disk at ``path``; return the image of the cache that it stands on, if any.

    :param disk_format: ``raw`` or ``qcow2``
    :param cache: the directory of the cache
    :raises ImageUnsafe: if it stands on anything else, or is not what it should be
    :raises InvalidState: if it can't be read
    """
    if disk_format == "raw":
        return None
    base = _backing(path)
    if base is None:
        return None
    if os.path.dirname(base) != cache or os.path.basename(base) in ("", ".", ".."):
        raise _unsafe("stands on a file that is no cached image")
    if not stat.S_ISREG(_stat(base).st_mode):
        raise _unsafe("stands on something that is no file")
    if _head(base).startswith(qcow2.MAGIC) and _backing(base) is not None:
        raise _unsafe("stands on an image that stands on another")
    return base


def _backing(path: str) -> str | None:
    """Return what the header of a qcow2 file names as its backing file.

    :raises ImageUnsafe: if it is no such file, or keeps its data elsewhere
    """
    try:
        name = qcow2.parse(_head(path)).name
    except qcow2.Malformed as error:
        raise _unsafe(str(error)) from None
    return None if name is None else os.fsdecode(_head(path, *name))


def _head(path: str, offset: int = 0, size: int = qcow2.BYTES) -> bytes:
    try:
        return qcow2.read(path, size, offset)
    except qcow2.Malformed as error:
        raise _unsafe(str(error)) from None
    except OSError as error:
        raise errors.InvalidState(f"{path} can't be read: {error.strerror}") from None


def _stat(path: str) -> os.stat_result:
    try:
        return posix.lstat(path)
    except OSError as error:
        raise errors.InvalidState(f"{path} can't be looked at: {error.strerror}") from None


def _unsafe(reason: str) -> errors.ImageUnsafe:
    return errors.ImageUnsafe(f"the guest's disk {reason}")

# SPDX-License-Identifier: Apache-2.0
"""The note beside a cached image: what was verified, and of which bytes. For native threads.

A cached image counts only together with its stamp, and only while size and time of change
are those that the stamp names: what was written to later, or half-written by a crash, is
not used.
"""

import contextlib
import os
import posix

import msgspec

from compute_agent.model import clock

SUFFIX = ".json"
_LIMIT = 65536


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a cached image.

    :param format: what QEMU is to be told
    :param virtual_size: bytes that a guest sees
    :param source_size: bytes of what was fetched, before any conversion
    :param sha256: of what was fetched
    :param verified: the checksum that it was compared with
    :param size: of the cached file, in bytes
    :param mtime_ns: of the cached file
    :param file_sha256: of the cached file, where that is not what was fetched; None in stamps of old
    """

    url: str
    format: str
    virtual_size: int
    source_size: int
    sha256: str
    verified: str | None
    size: int
    mtime_ns: int
    made_at: clock.Timestamp
    file_sha256: str | None = None

    @property
    def contents_sha256(self) -> str | None:
        """Of the cached file; None if nobody knows it."""
        return self.file_sha256 or (self.sha256 if self.size == self.source_size else None)


def write(path: str, stamp: Stamp) -> None:
    """Write the stamp of the image at ``path``; durable on return."""
    part = f"{path}{SUFFIX}.new"  # not among the parts, which are swept: nobody holds a lock on it
    fd = posix.open(part, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o644)
    try:
        posix.write(fd, msgspec.json.encode(stamp))
        posix.fsync(fd)
        posix.rename(part, path + SUFFIX)
    except OSError:
        posix.unlink(part)
        raise
    finally:
        posix.close(fd)


def read(path: str) -> Stamp | None:
    """Return the stamp of the image at ``path`` if it is there and fits the file."""
    try:
        fd = posix.open(path + SUFFIX, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        stamp = msgspec.json.decode(posix.pread(fd, _LIMIT, 0), type=Stamp)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    finally:
        posix.close(fd)
    return stamp if fits(path, stamp) else None


def fits(path: str, stamp: Stamp) -> bool:
    """Return whether the file at ``path`` is the one that ``stamp`` describes."""
    try:
        found = posix.stat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (stamp.size, stamp.mtime_ns)


def remove(path: str) -> None:
    """Take the stamp of the image at ``path`` away: from now on, nobody uses the image."""
    with contextlib.suppress(FileNotFoundError):
        posix.unlink(path + SUFFIX)


def touch(path: str) -> None:
    """Note that the image at ``path`` is used now."""
    with contextlib.suppress(OSError):
        os.utime(path + SUFFIX)


def last_used_s(path: str) -> float:
    """Return when the image at ``path`` was used last, in seconds since 1970; now, if that can't be told."""
    try:
        return posix.stat(path + SUFFIX).st_mtime
    except OSError:
        return clock.unix()

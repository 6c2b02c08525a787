# SPDX-License-Identifier: Apache-2.0
"""The header of a qcow2 file, read byte by byte before qemu-img or QEMU opens the file.

Who wrote the file may have made its header name any file of the host: as what it stands on, or as the place
of its data. Nothing is opened here but the file itself, links are not followed, and nothing is guessed. What
a malformed file means is up to who asks.
"""

import dataclasses
import posix
import stat
import struct

MAGIC = b"QFI\xfb"
BYTES = 104
"""What the fixed part of a header takes; in a file of version 2 it is followed by other things sooner."""
NAME_BYTES = 1023
"""The longest name of a file that it stands on, by the format."""
_EXTERNAL_DATA = 1 << 2


class Malformed(Exception):
    """It is no file that may be worked with; the text says why, without saying which file."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a header says.

    :param name: where the name of the file that it stands on begins, and its bytes; None if on nothing
    """

    version: int
    name: tuple[int, int] | None


def read(path: str, size: int = BYTES, offset: int = 0) -> bytes:
    """Return up to ``size`` bytes of a file.

    :raises OSError: if it can't be read, or is a link
    :raises Malformed: if it is no regular file
    """
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK)
    try:
        if not stat.S_ISREG(posix.fstat(fd).st_mode):
            raise Malformed("is no file")
        return posix.pread(fd, size, min(offset, 2**62))
    finally:
        posix.close(fd)


def parse(head: bytes) -> Header:
    """Return what the first bytes of a file, at least :data:`BYTES`, say.

    :raises Malformed: if it is no qcow2 file, keeps its data elsewhere, or names what it stands on wrongly
    """
    if len(head) < BYTES or not head.startswith(MAGIC):
        raise Malformed("is no qcow2 file")
    version, offset, size = struct.unpack(">IQI", head[4:20])
    if version >= 3 and struct.unpack(">Q", head[72:80])[0] & _EXTERNAL_DATA:
        raise Malformed("keeps its data in another file")
    if not offset:
        return Header(version, None)
    if not 0 < size <= NAME_BYTES:
        raise Malformed("names what it stands on in a wrong way")
    return Header(version, (offset, size))

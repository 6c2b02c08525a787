# SPDX-License-Identifier: Apache-2.0
"""A file as ranges of data and of nothing. In native threads."""

import errno
import os
import posix
from collections.abc import Iterator
from typing import NamedTuple

SECTOR = 512


class Range(NamedTuple):
    """A part of a file, in bytes; ``data`` is False for a hole."""

    offset: int
    length: int
    data: bool


def rounded(size: int) -> int:
    """Return ``size`` in whole sectors: QEMU knows no smaller unit."""
    return -(-size // SECTOR) * SECTOR


def next_range(fd: int, offset: int, most_data: int, most_hole: int) -> Range | None:
    """Return what comes at ``offset``; None at the end. The last one ends with a whole sector.

    :raises OSError: if the file can't be read
    """
    size = posix.fstat(fd).st_size
    if offset >= size:
        return None
    begin = _seek(fd, offset, os.SEEK_DATA, size)
    if begin > offset:
        end = size if begin >= size else begin - begin % SECTOR
        if end > offset:
            return Range(offset, min(rounded(end) - offset, most_hole), False)
    end = _seek(fd, max(begin, offset), os.SEEK_HOLE, size)
    return Range(offset, min(rounded(end) - offset, most_data), True)


def all_of(fd: int, most_data: int, most_hole: int) -> Iterator[Range]:
    """Return all ranges of a file. Raises as :func:`next_range`."""
    offset = 0
    while (found := next_range(fd, offset, most_data, most_hole)) is not None:
        yield found
        offset = found.offset + found.length


def read(fd: int, offset: int, length: int) -> bytes:
    """Return what is there; zeros beyond the end. Raises as :func:`next_range`."""
    made = bytearray()
    while len(made) < length:
        piece = posix.pread(fd, length - len(made), offset + len(made))
        if not piece:
            made.extend(bytes(length - len(made)))
        made += piece
    return bytes(made)


def _seek(fd: int, offset: int, how: int, size: int) -> int:
    """Return where data, or a hole, begins; the end of the file if nowhere, or if that can't be told."""
    try:
        return posix.lseek(fd, offset, how)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno == errno.EINVAL:  # the file system knows nothing of holes: all of it is data
            return offset if how == os.SEEK_DATA else size
        raise

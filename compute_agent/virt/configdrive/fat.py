# SPDX-License-Identifier: Apache-2.0
"""A config drive as FAT16 with long names.

Written here, since what writes FAT elsewhere is a program (mtools: a process for each file, and their secrets
in files or pipes), or needs root for a mount, or is a library that nobody keeps. Only this is needed: files
that are all known at once, in clusters one behind the other, with times that never change.
"""

import dataclasses
import struct
from collections.abc import Iterator, Mapping
from typing import Final

SECTOR = 512
CLUSTER = 1024
MIB = 2**20
LEAST_BYTES = 16 * MIB
"""A file system with fewer clusters than this gives would be FAT12 to its reader."""
_RESERVED, _FATS, _ROOT_ENTRIES = 1, 2, 512
_ENTRY = 32
_FIRST_CLUSTER = 2
_END_OF_CHAIN = 0xFFFF
_MEDIA = 0xF8
_SERIAL = 0x636F6E66
_DATE = (2000 - 1980) << 9 | 1 << 5 | 1
_READ_ONLY, _VOLUME, _DIRECTORY, _LONG = 0x01, 0x08, 0x10, 0x0F
_LAST_PART = 0x40
DEPTH_LIMIT = 8
"""How deep directories of a drive lie at most."""
_PART = 13
"""Characters of a long name that one entry holds."""


def build(files: Mapping[str, bytes], label: str) -> bytes:
    """Return a FAT16 file system with ``files``, named ``label``."""
    tree = _Directory("")
    for path, contents in sorted(files.items()):
        tree.place(path.split("/"), contents)
    volume = _Volume(_size(tree))
    root = volume.entries(tree, volume_label=label)
    return volume.image(label, root)


@dataclasses.dataclass
class _Directory:
    name: str
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    directories: dict[str, "_Directory"] = dataclasses.field(default_factory=dict)

    def place(self, parts: list[str], contents: bytes) -> None:
        """Put a file where ``parts`` lead."""
        first, *rest = parts
        if rest:
            self.directories.setdefault(first, _Directory(first)).place(rest, contents)
        else:
            self.files[first] = contents

    def clusters(self) -> int:
        """Return how many clusters it takes, with all that is in it."""
        own = _clusters(
            sum(_ENTRY * (2 + _parts(name)) for name in [*self.files, *self.directories]) + 3 * _ENTRY
        )
        return (
            own
            + sum(_clusters(len(contents)) for contents in self.files.values())
            + sum(directory.clusters() for directory in self.directories.values())
        )


def _clusters(size: int) -> int:
    return -(-size // CLUSTER)


def _parts(name: str) -> int:
    return -(-len(name) // _PART)


def _size(tree: _Directory) -> int:
    """Return how large the file system is: with room for the tables, in whole MiB."""
    return max(LEAST_BYTES, -(-(tree.clusters() * CLUSTER + MIB) // MIB) * MIB)


class _Volume:
    """A file system in the making: clusters are given out one behind the other."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._fat_sectors: Final = -(-(size // CLUSTER + _FIRST_CLUSTER) * 2 // SECTOR)
        self._table = [0xFF00 | _MEDIA, _END_OF_CHAIN]
        self._data = bytearray()

    def _keep(self, contents: bytes) -> int:
        """Store ``contents``; return the number of their first cluster, 0 if they are empty."""
        count = _clusters(len(contents))
        if not count:
            return 0
        first = len(self._table)
        self._table += [*range(first + 1, first + count), _END_OF_CHAIN]
        self._data += contents.ljust(count * CLUSTER, b"\0")
        return first

    def _directory(self, directory: _Directory, parent: int) -> int:
        """Store a directory and what is in it; return its first cluster.

        Its own place has to be known before what is in it can name it, so it is taken first.
        """
        count = _clusters(len(self._listing(directory, 0, 0, dry=True)))
        first = self._keep(bytes(count * CLUSTER))
        listing = self._listing(directory, first, parent, dry=False)
        start = (first - _FIRST_CLUSTER) * CLUSTER
        self._data[start : start + len(listing)] = listing
        return first

    def _listing(self, directory: _Directory, own: int, parent: int, *, dry: bool) -> bytes:
        dots = _short(b".".ljust(11), _DIRECTORY, own) + _short(b"..".ljust(11), _DIRECTORY, parent)
        return dots + self.entries(directory, own=own, dry=dry)

    def entries(
        self, directory: _Directory, *, own: int = 0, volume_label: str | None = None, dry: bool = False
    ) -> bytes:
        """Return the entries of what is in ``directory``, having stored it, unless this is a dry run."""
        made = bytearray()
        if volume_label is not None:
            made += _short(volume_label.encode("ascii").ljust(11), _VOLUME, 0)
        for number, (name, contents) in enumerate(directory.files.items()):
            first = 0 if dry else self._keep(contents)
            made += _named(name, number, _READ_ONLY, first, len(contents))
        for number, (name, below) in enumerate(directory.directories.items(), start=len(directory.files)):
            first = 0 if dry else self._directory(below, own)
            made += _named(name, number, _DIRECTORY, first, 0)
        return bytes(made)

    def image(self, label: str, root: bytes) -> bytes:
        """Return the whole file system."""
        table = struct.pack(f"<{len(self._table)}H", *self._table).ljust(self._fat_sectors * SECTOR, b"\0")
        head = _boot_sector(self._size, self._fat_sectors, label) + table * _FATS
        return (head + root.ljust(_ROOT_ENTRIES * _ENTRY, b"\0") + self._data).ljust(self._size, b"\0")


def _boot_sector(size: int, fat_sectors: int, label: str) -> bytes:
    sectors = size // SECTOR
    geometry = struct.pack(
        "<HBHBHHBHHHII",
        SECTOR,
        CLUSTER // SECTOR,
        _RESERVED,
        _FATS,
        _ROOT_ENTRIES,
        sectors if sectors < 0x10000 else 0,
        _MEDIA,
        fat_sectors,
        32,
        64,
        0,
        sectors if sectors >= 0x10000 else 0,
    )
    extended = struct.pack("<BBBI11s8s", 0x80, 0, 0x29, _SERIAL, label.encode("ascii").ljust(11), b"FAT16   ")
    head = b"\xeb\x3c\x90" + b"MSWIN4.1" + geometry + extended
    return head.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _named(name: str, number: int, attributes: int, cluster: int, size: int) -> bytes:
    """Return the entries of a file: its long name, last part first, and a short one that nobody looks at."""
    short = f"CD{number:04}~1".encode("ascii").ljust(11)
    text = name.encode("utf-16-le")
    padded = text if len(name) % _PART == 0 else (text + b"\0\0").ljust(_parts(name) * _PART * 2, b"\xff")
    parts = [padded[at : at + _PART * 2] for at in range(0, len(padded), _PART * 2)]
    longs = [_long(order, part, _sum(short)) for order, part in enumerate(parts, start=1)]
    last = longs[-1]
    longs[-1] = bytes([last[0] | _LAST_PART]) + last[1:]
    return b"".join(reversed(longs)) + _short(short, attributes, cluster, size)


def _long(order: int, part: bytes, checksum: int) -> bytes:
    return struct.pack("<B10sBBB12sH4s", order, part[:10], _LONG, 0, checksum, part[10:22], 0, part[22:26])


def _sum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total


def _short(name: bytes, attributes: int, cluster: int, size: int = 0) -> bytes:
    return struct.pack("<11sBBBHHHHHHHI", name, attributes, 0, 0, 0, _DATE, _DATE, 0, 0, _DATE, cluster, size)


# --- reading -----------------------------------------------------------------------------------------


def read(data: bytes) -> dict[str, bytes]:
    """Return the files of a file system that :func:`build` made, by their paths.

    :raises ValueError: if it is none
    """
    (fat_sectors,) = struct.unpack_from("<H", data, 22)
    root = (_RESERVED + _FATS * fat_sectors) * SECTOR
    reader = _Reader(data, root + _ROOT_ENTRIES * _ENTRY)
    try:
        return dict(reader.walk(root, "", 0))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a file system of a config drive: {error}") from None


class _Reader:
    """Goes through the directories; files and directories lie in one piece."""

    def __init__(self, data: bytes, clusters: int) -> None:
        self._data = data
        self._clusters = clusters
        self._left = len(data) // _ENTRY

    def walk(self, at: int, prefix: str, depth: int) -> Iterator[tuple[str, bytes]]:
        """Give what is in the directory at ``at``, and below it, by its path."""
        long = ""
        while self._data[at] and depth < DEPTH_LIMIT:
            entry = self._data[at : at + _ENTRY]
            at += _ENTRY
            self._count()
            if entry[11] == _LONG:
                long = _text(entry) + long
                continue
            cluster, size = struct.unpack_from("<HI", entry, 26)
            place = self._clusters + (cluster - _FIRST_CLUSTER) * CLUSTER
            if entry[11] & _DIRECTORY and long:
                yield from self.walk(place, f"{prefix}{long}/", depth + 1)
            elif not entry[11] & (_VOLUME | _DIRECTORY):
                yield f"{prefix}{long}", self._data[place : place + size]
            long = ""

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("more entries than there is room for")


def _text(entry: bytes) -> str:
    """Return a part of a long name."""
    return (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le").partition("\0")[0]

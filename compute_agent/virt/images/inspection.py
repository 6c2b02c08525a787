# SPDX-License-Identifier: Apache-2.0
"""What a disk image really is, found out before QEMU or qemu-img opens it.

Formats that QEMU understands can name other files of the host: backing files, external data
files, extents. An image is taken only if it is what its sender says and refers to nothing
outside itself. What only looks like raw is refused too: were its first bytes once
guessed, it would become something else.

The recognition is oslo.utils' format inspector; what it leaves open (truncated tables, old
encryption) is looked at here.
"""

import dataclasses
import posix
import re
import struct
from typing import Any

from compute_agent.model import errors
from compute_agent.model.image import DiskFormat

HEAD_BYTES = 8 * 2**20
"""Of the file's beginning that is looked at: all that the formats put their facts into."""
TAIL_BYTES = 64 * 1024
_CHUNK_BYTES = 2**20
_DESCRIPTOR_START, _DESCRIPTOR_END = 512, 2**20
_PARENTLESS = re.compile(rb"^[ \t]*parentcid[ \t]*=[ \t]*ffffffff[ \t]*\r?$", re.MULTILINE)
_EXTENT = re.compile(rb"^[ \t]*(?:rw|rdonly|noaccess)\b.*$", re.MULTILINE)
_LUKS_MAGIC = b"LUKS\xba\xbe"
_QCOW_MAGIC = b"QFI\xfb"
_PROBED_BYTES = 2048
_BEGINNINGS = (
    _QCOW_MAGIC,
    _LUKS_MAGIC,
    b"KDMV",
    b"COWD",
    b"QED\0",
    b"conectix",
    b"vhdxfile",
    b"WithoutFreeSpace",
    b"WithouFreSpacExt",
    b"Bochs Virtual HD Image",
    b"#!/bin/sh\n#V2.0 Format\n",
)
"""By which QEMU knows its formats, where it is left to guess."""
_VMDK_TEXT = re.compile(rb"(?:#[^\n]*\n| *\r?\n)*version=[123]\r?\n")
_VDI_MAGIC = b"\x7f\x10\xda\xbe"
_PLAIN = frozenset({"raw", "gpt", "iso"})
"""Contents that no block driver of QEMU would follow anywhere: partition tables, optical disks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspected:
    """What an image is. ``virtual_size``: bytes that a guest sees."""

    format: DiskFormat
    virtual_size: int


def inspect(fd: int, declared: DiskFormat, *, max_virtual_size: int) -> Inspected:
    """Look into the file behind ``fd``. Runs in a native thread.

    :param max_virtual_size: bytes
    :raises ImageUnsafe: if it is not of the declared format, or refers to anything outside itself
    :raises ImageUnavailable: if it is truncated
    :raises ImageTooLarge: if a guest would see more than ``max_virtual_size``
    """
    size = posix.fstat(fd).st_size
    virtual_size = _detect(fd, size, declared)
    if virtual_size <= 0:
        raise errors.ImageUnsafe(f"the {declared} image does not tell its size")
    if virtual_size > max_virtual_size:
        raise errors.ImageTooLarge(
            f"the image claims {virtual_size} bytes, the limit is {max_virtual_size}",
            hint="raise [images] max_virtual_size_gb if it is to be trusted",
        )
    if declared is DiskFormat.QCOW2:
        _check_qcow2(posix.pread(fd, 104, 0), size)
    if declared is DiskFormat.VMDK:
        _check_vmdk(posix.pread(fd, _DESCRIPTOR_END, 0))
    if declared is DiskFormat.VDI:
        _check_vdi(posix.pread(fd, 512, 0), size)
    return Inspected(format=declared, virtual_size=virtual_size)


def _inspector() -> Any:
    """Import the library when it is first needed: it takes 60 ms and 15 MB."""
    from oslo_utils.imageutils import format_inspector

    return format_inspector


def _detect(fd: int, size: int, declared: DiskFormat) -> int:
    """Return the virtual size that the image states.

    :raises ImageUnsafe: if it is something else than ``declared``, several things at once, or unsafe
    """
    library = _inspector()
    wrapper = library.InspectWrapper(_Head(fd, size, with_tail=declared is DiskFormat.VMDK))
    try:
        while wrapper.read(_CHUNK_BYTES):
            pass
        wrapper.close()
        matches = wrapper.formats
    except Exception as error:  # a parser that stumbles over hostile data has not found it harmless
        raise errors.ImageUnsafe(f"the image can't be understood: {type(error).__name__}") from None
    _check_luks(fd, declared)
    if declared in (DiskFormat.RAW, DiskFormat.ISO):
        _check_beginning(posix.pread(fd, _PROBED_BYTES, 0), declared)
    _check_names({str(match) for match in matches}, declared, posix.pread(fd, 4, 0), size)
    if declared in (DiskFormat.RAW, DiskFormat.ISO):
        return size  # whatever a volume descriptor inside may say
    (match,) = matches
    return _checked_size(library, match, declared)


def _check_names(names: set[str], declared: DiskFormat, magic: bytes, size: int) -> None:
    expected = {str(declared)}
    if declared is DiskFormat.RAW and names <= _PLAIN:
        return
    if declared is DiskFormat.ISO and "iso" in names and names <= _PLAIN:
        return
    if names == expected:
        return
    if declared is DiskFormat.QCOW2 and magic == _QCOW_MAGIC and size < 512:
        raise errors.ImageUnavailable("the image ends within its header")
    found = " and ".join(sorted(names))
    raise errors.ImageUnsafe(
        f"the image is declared as {declared}, its contents are {found}",
        hint="declare disk_format as what the file is, or convert it",
    )


def _check_beginning(head: bytes, declared: DiskFormat) -> None:
    """Refuse what QEMU would take for one of its formats, whatever else the image may be as well."""
    if head.startswith(_BEGINNINGS) or _VMDK_TEXT.match(head) or head[0x40:0x44] == _VDI_MAGIC:
        raise errors.ImageUnsafe(
            f"the image is declared as {declared}, and begins as an image of another format",
            hint="declare disk_format as what the file is, or convert it",
        )


def _checked_size(library: Any, match: Any, declared: DiskFormat) -> int:
    try:
        match.safety_check()
        return int(match.virtual_size)
    except library.SafetyCheckFailed as error:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(error.failures.items()))
        raise errors.ImageUnsafe(f"the {declared} image is not safe: {reasons}") from None
    except (library.ImageFormatError, struct.error, ArithmeticError, LookupError):
        raise errors.ImageUnavailable(f"the {declared} image is damaged or ends too early") from None


def _check_luks(fd: int, declared: DiskFormat) -> None:
    if posix.pread(fd, len(_LUKS_MAGIC), 0) == _LUKS_MAGIC:
        raise errors.ImageUnsafe(f"the image is declared as {declared}, it is LUKS-encrypted")


def _check_qcow2(header: bytes, file_size: int) -> None:
    """Check what QEMU would trip over later: encryption, and tables that the file does not hold.

    :raises ImageUnsafe: if it is encrypted or states what no qcow2 may
    :raises ImageUnavailable: if it ends before its tables do
    """
    if len(header) < 72:
        raise errors.ImageUnavailable("the image ends within its header")
    (_, _, _, _, cluster_bits, size, crypt, l1_size, l1_offset, refcount_offset, refcount_clusters) = (
        struct.unpack(">4sIQIIQIIQQI", header[:60])
    )
    if crypt:
        raise errors.ImageUnsafe("the qcow2 image is encrypted")
    if not 9 <= cluster_bits <= 21:
        raise errors.ImageUnsafe(f"the qcow2 image has clusters of 2^{cluster_bits} bytes")
    cluster = 1 << cluster_bits
    needed_l1 = -(-size // (cluster * (cluster // 8)))
    if l1_size < needed_l1:
        raise errors.ImageUnsafe("the qcow2 image's first table is too small for its size")
    if l1_offset + l1_size * 8 > file_size or refcount_offset + refcount_clusters * cluster > file_size:
        raise errors.ImageUnavailable(f"the image ends before its tables do, at {file_size} bytes")


def _check_vmdk(head: bytes) -> None:
    """Check the descriptor for what makes QEMU look for a parent, or for data in another file.

    :raises ImageUnsafe: if it has that
    """
    text = head[_DESCRIPTOR_START:].partition(b"\0")[0].lower()
    if b"parentfilenamehint" in text or _PARENTLESS.search(text) is None:
        raise errors.ImageUnsafe("the vmdk image stands on another one")
    if len(_EXTENT.findall(text)) != 1 or struct.unpack_from("<Q", head, 12)[0] == 0:
        raise errors.ImageUnsafe("the vmdk image keeps its data in other files")


def _check_vdi(header: bytes, file_size: int) -> None:
    """Check that all blocks are in the file; qemu-img would read the missing ones as zeros.

    :raises ImageUnavailable: if it ends too early
    """
    data_offset, block_size, allocated = (
        struct.unpack_from("<I", header, at)[0] for at in (0x158, 0x178, 0x184)
    )
    if data_offset + allocated * block_size > file_size:
        raise errors.ImageUnavailable(f"the image ends before its blocks do, at {file_size} bytes")


class _Head:
    """The beginning of a file, and if asked for its end, as a stream."""

    def __init__(self, fd: int, size: int, *, with_tail: bool) -> None:
        self._fd = fd
        self._at = 0
        self._stop = min(size, HEAD_BYTES)
        self._tail = max(self._stop, size - TAIL_BYTES) if with_tail else size
        self._end = size

    def read(self, size: int) -> bytes:
        if self._at == self._stop and self._stop < self._end and self._tail < self._end:
            self._at, self._stop = self._tail, self._end
        chunk = posix.pread(self._fd, min(size, self._stop - self._at), self._at)
        self._at += len(chunk)
        return chunk

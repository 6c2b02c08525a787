# SPDX-License-Identifier: Apache-2.0
"""Images that want something of the host: made by hand, field by field, where qemu-img would refuse."""

from __future__ import annotations

import struct

QCOW2_CLUSTER = 65536


def qcow2(
    *,
    size: int = 64 * 2**20,
    backing: bytes = b"",
    crypt: int = 0,
    incompatible: int = 0,
    cluster_bits: int = 16,
    l1_size: int | None = None,
    version: int = 3,
) -> bytes:
    """An empty qcow2 image: header, refcount table, refcount block, first table."""
    cluster = QCOW2_CLUSTER
    needed = max(1, -(-size // (cluster * (cluster // 8))))
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        version,
        512 if backing else 0,
        len(backing),
        cluster_bits,
        size,
        crypt,
        needed if l1_size is None else l1_size,
        3 * cluster,
        cluster,
        1,
        0,
        0,
        incompatible,
        0,
        0,
        4,
        104,
    )
    first = (header.ljust(512, b"\0") + backing).ljust(cluster, b"\0")
    refcount_table = struct.pack(">Q", 2 * cluster).ljust(cluster, b"\0")
    refcounts = struct.pack(">4H", 1, 1, 1, 1).ljust(cluster, b"\0")
    return first + refcount_table + refcounts + bytes(cluster)


def vmdk_descriptor(extent: str, kind: str = "monolithicFlat") -> bytes:
    """The text that makes a VMDK of any file on the host."""
    return (
        f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="{kind}"\n'
        f'RW 2048 FLAT "{extent}" 0\nddb.adapterType = "ide"\n'
    ).encode()


def vmdk_sparse(extent: str) -> bytes:
    """A sparse VMDK whose embedded descriptor names an extent elsewhere."""
    header = struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, 2048, 128, 1, 20, 512, 21, 26)
    text = vmdk_descriptor(extent, "monolithicSparse").replace(b"FLAT", b"SPARSE")
    return (header.ljust(512, b"\0") + text).ljust(2**20, b"\0")


def vmdk_with(contents: bytes, old: bytes, new: bytes) -> bytes:
    """A VMDK that qemu-img made, with a line of its descriptor changed."""
    at = contents.index(old)
    end = contents.index(b"\0", at)
    text = contents[at:end].replace(old, new, 1)
    return contents[:at] + text.ljust(end - at, b"\0") + contents[at + max(len(text), end - at) :]


def vhdx_with_parent(contents: bytes) -> bytes:
    """A VHDX that qemu-img made, said to stand on another."""
    parameters = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
    entry = contents.index(parameters)
    (offset,) = struct.unpack_from("<I", contents, entry + 16)
    at = contents.index(b"metadata") + offset + 4
    return contents[:at] + struct.pack("<I", 2) + contents[at + 4 :]


def vdi_with(contents: bytes, offset: int) -> bytes:
    """A VDI that qemu-img made, with the uuid of another image at ``offset``."""
    return contents[:offset] + bytes(range(1, 17)) + contents[offset + 16 :]


def luks() -> bytes:
    """The beginning of a LUKS volume."""
    return (b"LUKS\xba\xbe" + struct.pack(">H", 1) + b"aes".ljust(32, b"\0")).ljust(2**20, b"\0")


def with_iso(contents: bytes) -> bytes:
    """``contents`` that are an optical disk as well."""
    grown = bytearray(contents.ljust(40960, b"\0"))
    grown[32768:32775] = b"\x01CD001\x01"
    return bytes(grown)


def with_partitions(contents: bytes) -> bytes:
    """``contents`` that are a partitioned disk as well: one partition, and the signature."""
    grown = bytearray(contents.ljust(2**20, b"\0"))
    grown[446:462] = struct.pack("<B3sB3sII", 0x80, b"\x20\x21\0", 0x83, b"\xff\xff\xff", 2048, 2048)
    grown[510:512] = b"\x55\xaa"
    return bytes(grown)


def vdi() -> bytes:
    """The header of a VDI without a block: of no size, and with no parent."""
    text = b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(0x40, b"\0")
    return (text + struct.pack("<III", 0xBEDA107F, 0x00010001, 400)).ljust(2**20, b"\0")


def boot_sector(size: int = 2**20) -> bytes:
    """Code with the boot signature and no partitions: raw, whatever a partition table's check may say."""
    return (b"\xfa\xf4\xeb\xfd".ljust(510, b"\x90") + b"\x55\xaa").ljust(size, b"\0")

# SPDX-License-Identifier: Apache-2.0
"""What a volume's qcow2 file stands on, by the bytes of its header, before QEMU opens it.

A storage service that keeps volumes as files makes chains of them (its snapshots). A chain may only lead to
files where volumes may be, each layer has to name the format of the next (nothing is ever guessed), and
none may keep its data elsewhere. These functions run in native threads.
"""

import os
import struct

from compute_agent.model import errors
from compute_agent.virt.images import qcow2
from compute_agent.virt.libvirt.volumes import checks

LONGEST = 64
_HEAD_BYTES = 65536
_BACKING_FORMAT = 0xE2792ACA


def check(path: str, file_format: str) -> list[str]:
    """Return the files that a volume consists of, newest first.

    :raises VolumeUnavailable: if one is not there
    :raises ImageUnsafe: if the chain leads astray
    :raises PermissionDenied: if it leads where volumes may not be
    """
    found: list[str] = []
    next_path, next_format = path, file_format
    while True:
        real = checks.real(next_path)
        if real in found or len(found) >= LONGEST:
            raise errors.ImageUnsafe("the volume's chain is a circle, or too long")
        found.append(real)
        head = _head(real)
        if next_format == "raw":
            return found
        backing = parse(head)
        if backing is None:
            return found
        name, next_format = backing
        next_path = os.path.normpath(os.path.join(os.path.dirname(real), name))


def parse(head: bytes) -> tuple[str, str] | None:
    """Return what the header of a qcow2 file says it stands on: name and format; None for nothing.

    :raises ImageUnsafe: if it is no such file, keeps its data elsewhere, or names a file without its format
    """
    try:
        header = qcow2.parse(head)
    except qcow2.Malformed as error:
        raise errors.ImageUnsafe(f"the volume {error}") from None
    if header.name is None:
        return None
    offset, size = header.name
    if offset + size > len(head):
        raise errors.ImageUnsafe("the volume names what it stands on in a wrong way")
    name = os.fsdecode(head[offset : offset + size])
    layer_format = _extensions(head, header.version).get(_BACKING_FORMAT, b"").decode("ascii", "replace")
    if layer_format not in ("raw", "qcow2") or ":" in name or "\0" in name or not name:
        raise errors.ImageUnsafe("the volume stands on something that is no plain file of a known format")
    return name, layer_format


def _extensions(head: bytes, version: int) -> dict[int, bytes]:
    at = struct.unpack(">I", head[100:104])[0] if version >= 3 else 72
    found: dict[int, bytes] = {}
    while at + 8 <= len(head):
        kind, size = struct.unpack(">II", head[at : at + 8])
        if kind == 0:
            break
        found[kind] = head[at + 8 : at + 8 + size]
        at += 8 + (size + 7) // 8 * 8
    return found


def _head(path: str) -> bytes:
    try:
        return qcow2.read(path, _HEAD_BYTES)
    except qcow2.Malformed as error:
        raise errors.ImageUnsafe(f"{path} {error}") from None
    except OSError as error:
        raise errors.VolumeUnavailable(f"{path} can't be read: {error.strerror}") from None

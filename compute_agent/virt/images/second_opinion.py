# SPDX-License-Identifier: Apache-2.0
"""What qemu-img says of an image that inspection found harmless: both have to agree.

By now the image refers to nothing outside itself, so qemu-img may open it; under limits,
with its format told. It sees what no look at a header can: damage, and an end that came
too early.
"""

import json
import posix

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import DiskFormat
from compute_agent.virt.images import qemu_img
from compute_agent.virt.images.inspection import Inspected

HARMLESS_BYTES = 2**30
"""Of data that an image may have however small its file is."""
_SOUND = frozenset({0, 3, 63})
"""What ``qemu-img check`` exits with: no errors; space that is merely lost; a format without such a check."""


def check(path: str, found: Inspected) -> None:
    """Let qemu-img look at the image at ``path``.

    :raises ImageUnsafe: if it sees another size, other files or encryption, or can't open it
    :raises ImageTooLarge: if its data are far larger than its file
    :raises ImageUnavailable: if the image is damaged or truncated
    """
    if found.format in (DiskFormat.RAW, DiskFormat.ISO):
        return
    _compare(path, found)
    _check_expansion(path, found)
    completed = qemu_img.look(["check", "-q", "-f", str(found.format), "--", path])
    if completed.returncode not in _SOUND:
        raise errors.ImageUnavailable(
            f"the {found.format} image is damaged or truncated", retryable=False, evidence=completed.stderr
        )


def convert(path: str, disk_format: DiskFormat, to: str) -> None:
    """Make a qcow2 file of the image at ``path``.

    :raises ImageUnavailable: if it can't be read to its end
    :raises DiskFull: if there is no room
    """
    needed, free = expanded(path, disk_format), qemu_img.free_bytes(to)
    if needed > free:
        raise errors.DiskFull(f"the image takes {needed} bytes as qcow2, {free} are free at {to}")
    arguments = ["convert", "-q", "-t", "writeback", "-f", str(disk_format), "-O", "qcow2", "--", path, to]
    try:
        qemu_img.run(arguments, writes=to)
    except errors.HypervisorError as error:
        raise errors.ImageUnavailable(
            f"the {disk_format} image is damaged or truncated", retryable=False, evidence=error.evidence
        ) from None


def expanded(path: str, disk_format: DiskFormat) -> int:
    """Return the bytes that the data of the image at ``path`` take at most, once nothing is compressed.

    :raises ImageUnavailable: if that can't be told
    """
    arguments = ["measure", "--output=json", "-f", str(disk_format), "-O", "qcow2", "--", path]
    completed = qemu_img.look(arguments)
    try:
        return int(json.loads(completed.stdout)["required"])
    except (ValueError, KeyError, TypeError):
        raise errors.ImageUnavailable(
            f"the {disk_format} image is damaged or truncated", retryable=False, evidence=completed.stderr
        ) from None


def _check_expansion(path: str, found: Inspected) -> None:
    """Refuse a file that is small only as long as nobody unpacks it."""
    size, data = posix.stat(path).st_size, expanded(path, found.format)
    if data > max(HARMLESS_BYTES, size * CONF.images.max_expansion):
        raise errors.ImageTooLarge(
            f"the image has {size} bytes, its data {data}",
            hint="raise [images] max_expansion if it is to be trusted, or send it with less compression",
        )


def _compare(path: str, found: Inspected) -> None:
    completed = qemu_img.look(["info", "--output=json", "-f", str(found.format), "--", path])
    if completed.returncode:
        raise errors.ImageUnsafe(f"qemu-img can't read the {found.format} image", evidence=completed.stderr)
    told = qemu_img.parse_info(completed.stdout)
    if told.backing_file or told.data_file or told.encrypted:
        raise errors.ImageUnsafe(f"the {found.format} image refers to other files or is encrypted")
    if told.virtual_size != found.virtual_size:
        raise errors.ImageUnsafe(
            f"the {found.format} image is of {found.virtual_size} bytes, qemu-img says {told.virtual_size}"
        )

# SPDX-License-Identifier: Apache-2.0
"""What qemu-img says of an image that inspection found harmless: both have to agree.

By now the image refers to nothing outside itself, so qemu-img may open it; under limits,
with its format told. It sees what no look at a header can: damage, and an end that came
too early.
"""

from compute_agent.model import errors
from compute_agent.model.image import DiskFormat
from compute_agent.virt.images import qemu_img
from compute_agent.virt.images.inspection import Inspected

_SOUND = frozenset({0, 3, 63})
"""What ``qemu-img check`` exits with: no errors; space that is merely lost; a format without such a check."""


def check(path: str, found: Inspected) -> None:
    """Let qemu-img look at the image at ``path``.

    :raises ImageUnsafe: if it sees another size, other files or encryption, or can't open it
    :raises ImageUnavailable: if the image is damaged or truncated
    """
    if found.format in (DiskFormat.RAW, DiskFormat.ISO):
        return
    _compare(path, found)
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
    arguments = ["convert", "-q", "-t", "writeback", "-f", str(disk_format), "-O", "qcow2", "--", path, to]
    try:
        qemu_img.run(arguments, writes=to)
    except errors.HypervisorError as error:
        raise errors.ImageUnavailable(
            f"the {disk_format} image is damaged or truncated", retryable=False, evidence=error.evidence
        ) from None


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

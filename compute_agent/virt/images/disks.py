# SPDX-License-Identifier: Apache-2.0
"""Disks of instances, made with qemu-img.

A disk appears under its name when it is whole: it is made under a temporary one and renamed,
so a crash leaves no half of a disk where a step's *done?* looks. Everything here may be
repeated, and what an interrupted attempt left is removed by the next.
"""

import contextlib
import glob
import os
import uuid
from collections.abc import Iterator

from compute_agent.model import errors
from compute_agent.virt.images import qemu_img
from compute_agent.virt.images.qemu_img import DiskInfo, info

__all__ = [
    "DiskInfo",
    "create_blank",
    "create_copy",
    "create_overlay",
    "info",
    "remove",
    "resize",
    "root_size",
]

GIB = 2**30
SECTOR_BYTES = 512
_UNFINISHED = ".part"


def root_size(root_gb: int, virtual_size: int, min_disk_gb: int = 0) -> int:
    """Return the bytes of a root disk: the flavor's, or the image's where ``root_gb`` is 0.

    :param root_gb: the flavor's, in GiB
    :param virtual_size: the image's, in bytes
    :param min_disk_gb: what the image asks for, in GiB
    :raises ImageTooLarge: if the image does not fit
    """
    if not root_gb:
        return -(-virtual_size // SECTOR_BYTES) * SECTOR_BYTES
    if virtual_size > root_gb * GIB:
        raise errors.ImageTooLarge(
            f"the image is of {virtual_size} bytes, the flavor's root disk of {root_gb} GiB",
            hint="take a flavor with a larger root_gb; 0 takes the image's own size",
        )
    if min_disk_gb > root_gb:
        raise errors.ImageTooLarge(
            f"the image asks for {min_disk_gb} GiB, the flavor's root disk has {root_gb}",
            hint="take a flavor with a larger root_gb",
        )
    return root_gb * GIB


def create_overlay(path: str, base: str, base_format: str, size_bytes: int) -> None:
    """Make a qcow2 disk whose unwritten blocks are those of ``base``.

    :param base: absolute path of a cached image, of ``base_format``; never written
    :raises DiskFull: if there is no room
    :raises HypervisorError: if qemu-img failed
    :raises Timeout: if its time was over
    :raises Cancelled: if the operation was cancelled
    """
    with _appearing(path) as part:
        arguments = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            base_format,
            "-b",
            base,
            "--",
            part,
            str(size_bytes),
        ]
        qemu_img.run(arguments, writes=path)


def create_copy(
    path: str, source: str, source_format: str, size_bytes: int, disk_format: str = "raw"
) -> None:
    """Make a disk of its own with ``source``'s contents, grown to ``size_bytes``.

    Raises as :func:`create_overlay` does.
    """
    with _appearing(path) as part:
        arguments = ["convert", "-q", "-t", "writeback", "-f", source_format, "-O", disk_format]
        qemu_img.run([*arguments, "--", source, part], writes=path)
        if info(part, disk_format).virtual_size < size_bytes:
            qemu_img.run(["resize", "-q", "-f", disk_format, "--", part, str(size_bytes)], writes=path)


def create_blank(path: str, size_bytes: int, disk_format: str = "qcow2") -> None:
    """Make an empty disk. Raises as :func:`create_overlay`."""
    with _appearing(path) as part:
        qemu_img.run(["create", "-q", "-f", disk_format, "--", part, str(size_bytes)], writes=path)


def resize(path: str, disk_format: str, size_bytes: int) -> None:
    """Grow a disk that no guest uses; one that is large enough stays as it is.

    Raises as :func:`create_overlay` does.
    """
    if info(path, disk_format).virtual_size < size_bytes:
        qemu_img.run(["resize", "-q", "-f", disk_format, "--", path, str(size_bytes)], writes=path)


def remove(path: str) -> None:
    """Delete a disk, and what attempts at it left. One that is not there is no error."""
    for name in [path, *_unfinished(path)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


@contextlib.contextmanager
def _appearing(path: str) -> Iterator[str]:
    """Give a temporary name that becomes ``path`` if all goes well.

    The name is new each time: a qemu-img that outlived a killed agent goes on writing to
    its own file, which is unlinked here.
    """
    if not os.path.isabs(path):  # qemu-img takes "nbd:..." and its like for protocols
        raise errors.InvalidArguments(f"not an absolute path: {path}")
    for left in _unfinished(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)
    part = f"{path}.{uuid.uuid4().hex[:12]}{_UNFINISHED}"
    try:
        yield part
        os.rename(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _unfinished(path: str) -> list[str]:
    return glob.glob(f"{glob.escape(path)}.*{_UNFINISHED}")

# SPDX-License-Identifier: Apache-2.0
"""Disks of instances: made with qemu-img, with mkfs, or by the file system alone.

A disk appears under its name when it is whole: it is made under a temporary one and renamed,
so a crash leaves no half of a disk where a step's *done?* looks. Everything here may be
repeated, and what an interrupted attempt left is removed by the next.

No file system is ever mounted on the host. A key is handed over as the path of the file that
holds it: it is in no argument, no environment and no log.
"""

import contextlib
import dataclasses
import glob
import logging
import os
import uuid
from collections.abc import Iterator, Sequence

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import allocation, process, qemu_img
from compute_agent.virt.images.qemu_img import DiskInfo, info

__all__ = [
    "PLAIN",
    "DiskInfo",
    "Making",
    "create_blank",
    "create_copy",
    "create_formatted",
    "create_overlay",
    "create_swap",
    "info",
    "mkfs",
    "remove",
    "resize",
    "root_size",
]

LOG = logging.getLogger(__name__)

GIB = 2**30
SECTOR_BYTES = 512
_UNFINISHED = ".part"
_KEY = "key"
_UNSTRETCHED_MS = 10
_LUKS_RETRIES = 7
_MKFS: dict[str, Sequence[str]] = {
    "ext2": ["-q", "-F", "-E", "lazy_itable_init=1", "-L"],
    "ext3": ["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-L"],
    "ext4": ["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-L"],
    "xfs": ["-q", "-f", "-L"],
    "vfat": ["-n"],
}
"""How each is made without a question; its label comes next."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """How a disk is made.

    :param key: path of the file with the key; None for a disk that is not encrypted. Encrypted ones are qcow2
    :param stretch: the key is what somebody thought up: each try at it is made to take two seconds
    :param preallocate: the disk takes all its room on the host at once
    """

    key: str | None = None
    stretch: bool = True
    preallocate: bool = False

    def create_options(self) -> list[str]:
        """Return what ``qemu-img create`` and ``convert`` are told."""
        if self.key is None:
            return []
        how = ["encrypt.format=luks", f"encrypt.key-secret={_KEY}"]
        how += [] if self.stretch else [f"encrypt.iter-time={_UNSTRETCHED_MS}"]
        return [*self.secret(), "-o", ",".join(how)]

    def secret(self) -> list[str]:
        """Return the object by which qemu-img reads the key."""
        return [] if self.key is None else ["--object", f"secret,id={_KEY},file={_escaped(self.key)}"]


PLAIN = Making()


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


def create_overlay(path: str, base: str, base_format: str, size_bytes: int, how: Making = PLAIN) -> None:
    """Make a qcow2 disk whose unwritten blocks are those of ``base``.

    :param base: absolute path of a cached image, of ``base_format``; never written
    :raises DiskFull: if there is no room
    :raises HypervisorError: if qemu-img failed
    :raises Timeout: if its time was over
    :raises Cancelled: if the operation was cancelled
    """
    with _appearing(path, size_bytes, how) as part:
        arguments = ["create", "-q", *how.create_options(), "-f", "qcow2", "-F", base_format, "-b", base]
        _create([*arguments, "--", part, str(size_bytes)], how, path)


def create_copy(
    path: str,
    source: str,
    source_format: str,
    size_bytes: int,
    disk_format: str = "raw",
    how: Making = PLAIN,
) -> None:
    """Make a disk of its own with ``source``'s contents, grown to ``size_bytes``.

    A raw copy of a raw source shares its extents with it until they are written, where the file system can.
    Raises as :func:`create_overlay` does.
    """
    with _appearing(path, size_bytes, how) as part:
        if source_format == disk_format == "raw" and process.POOL.call(
            allocation.clone, source, part, size_bytes
        ):
            return
        _convert(source, source_format, part, disk_format, how, path)
        if disk_format == "raw":
            process.POOL.call(allocation.grow, part, size_bytes)
        elif info(part, disk_format).virtual_size < size_bytes:
            _grow(part, size_bytes, how, path)


def create_blank(path: str, size_bytes: int, disk_format: str = "qcow2", how: Making = PLAIN) -> None:
    """Make an empty disk. Raises as :func:`create_overlay`."""
    with _appearing(path, size_bytes, how) as part:
        if disk_format == "raw":
            process.POOL.call(allocation.blank, part, size_bytes)
            return
        arguments = ["create", "-q", *how.create_options(), "-f", disk_format, "--", part, str(size_bytes)]
        _create(arguments, how, path)


def create_formatted(
    path: str, size_bytes: int, disk_format: str, file_system: str, label: str, how: Making = PLAIN
) -> None:
    """Make a disk with an empty file system on all of it. Raises as :func:`create_overlay`.

    :param file_system: one that :func:`mkfs` knows
    """
    with _appearing(path, size_bytes, how) as part, _raw(part, disk_format) as raw:
        process.POOL.call(allocation.blank, raw, size_bytes)
        _run(mkfs(file_system, label, raw), writes=path)
        if raw != part:
            _convert(raw, "raw", part, disk_format, how, path)


def create_swap(path: str, size_bytes: int, disk_format: str, label: str, how: Making = PLAIN) -> None:
    """Make a disk that is ready to be swapped to. Raises as :func:`create_overlay`."""
    with _appearing(path, size_bytes, how) as part, _raw(part, disk_format) as raw:
        process.POOL.call(allocation.blank, raw, size_bytes)
        process.POOL.call(allocation.write_swap_header, raw, label)
        if raw != part:
            _convert(raw, "raw", part, disk_format, how, path)


def mkfs(file_system: str, label: str, path: str) -> list[str]:
    """Return the command that makes a file system in the file at ``path``, which is all zeros.

    :raises HypervisorError: if the program for it is not installed
    """
    label = label.upper()[:11] if file_system == "vfat" else label[:12]
    process.find(f"mkfs.{file_system}")
    return [f"mkfs.{file_system}", *_MKFS[file_system], label, path]


def resize(path: str, disk_format: str, size_bytes: int, how: Making = PLAIN) -> None:
    """Grow a disk that no guest uses; one that is large enough stays as it is.

    Raises as :func:`create_overlay` does.
    """
    if info(path, disk_format).virtual_size >= size_bytes:
        return
    if how.key is not None:
        _grow(path, size_bytes, how, path)
    else:
        qemu_img.run(["resize", "-q", "-f", disk_format, "--", path, str(size_bytes)], writes=path)


def remove(path: str) -> None:
    """Delete a disk, and what attempts at it left. One that is not there is no error."""
    for name in [path, *_unfinished(path)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _convert(source: str, source_format: str, part: str, disk_format: str, how: Making, path: str) -> None:
    arguments = ["convert", "-q", "-t", "writeback", *how.create_options(), "-f", source_format]
    _create([*arguments, "-O", disk_format, "--", source, part], how, path)


def _create(arguments: Sequence[str], how: Making, path: str) -> None:
    """Run what makes a disk.

    QEMU times its key stretching, and gives up where the kernel, which counts in ticks, saw it take none: on
    a busy host one try of a dozen fails so, before anything is written.
    """
    for _ in range(0 if how.key is None else _LUKS_RETRIES):
        try:
            qemu_img.run(arguments, writes=path)
        except errors.HypervisorError as error:
            LOG.info("an encrypted disk is tried again: %s", error.evidence)
        else:
            return
    qemu_img.run(arguments, writes=path)


def _grow(part: str, size_bytes: int, how: Making, path: str) -> None:
    """Grow a qcow2 disk, which has to be opened with its key if it has one."""
    opened = f"driver=qcow2,file.driver=file,file.filename={_escaped(part)}"
    if how.key is not None:
        opened += f",encrypt.key-secret={_KEY}"
    arguments = ["resize", "-q", *how.secret(), "--image-opts", opened, str(size_bytes)]
    qemu_img.run(arguments, writes=path)


def _run(argv: Sequence[str], writes: str) -> None:
    """Run a program that is no part of QEMU under the limits that qemu-img has."""
    timeout = CONF.images.qemu_img_timeout
    limits = process.Limits(memory_bytes=CONF.images.qemu_img_memory_mb * 2**20, cpu_s=timeout)
    completed = process.run(argv, timeout_s=timeout, limits=limits)
    if completed.returncode == 0:
        return
    if qemu_img.free_bytes(writes) < qemu_img.FULL_BELOW_BYTES:
        raise errors.DiskFull(f"no room at {writes}", evidence=completed.stderr)
    raise errors.HypervisorError(f"{argv[0]} failed ({completed.returncode})", evidence=completed.stderr)


@contextlib.contextmanager
def _raw(part: str, disk_format: str) -> Iterator[str]:
    """Give the name of a raw file to fill: the disk itself, or one beside it that goes away."""
    if disk_format == "raw":
        yield part
        return
    beside = f"{part.removesuffix(_UNFINISHED)}.raw{_UNFINISHED}"
    try:
        yield beside
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


@contextlib.contextmanager
def _appearing(path: str, size_bytes: int, how: Making) -> Iterator[str]:
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
        if how.preallocate:
            process.POOL.call(allocation.reserve, part, size_bytes)
        process.POOL.call(allocation.close_to_others, part)
        os.rename(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _unfinished(path: str) -> list[str]:
    return glob.glob(f"{glob.escape(path)}.*{_UNFINISHED}")


def _escaped(path: str) -> str:
    """Return a path as QEMU's lists of options take it, whose items end at a comma."""
    return path.replace(",", ",,")

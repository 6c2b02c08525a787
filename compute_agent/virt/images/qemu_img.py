# SPDX-License-Identifier: Apache-2.0
"""qemu-img: every run of it under limits of memory, processor time and wall time.

An image is data from a stranger and qemu-img a large parser in C. Formats are always told,
never guessed, but for files that we made ourselves.
"""

import dataclasses
import json
import posix
from collections.abc import Sequence
from typing import Any

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import process

_OUTPUT_BYTES = 16 * 1024 * 1024
"""What a command that only reads may say: a damaged image makes it complain at length."""
FULL_BELOW_BYTES = 4 * 1024 * 1024
"""A file system with less room than this is what made qemu-img fail."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiskInfo:
    """What qemu-img tells of a disk. Sizes in bytes.

    :param disk_size: what it takes on the host
    :param data_file: of a qcow2 file that keeps its data elsewhere
    """

    path: str
    format: str
    virtual_size: int
    disk_size: int
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    encrypted: bool = False


def run(arguments: Sequence[str], *, writes: str | None = None) -> process.Completed:
    """Run qemu-img under the configured limits.

    :param writes: the path that it writes, to tell a full disk from other failures
    :raises DiskFull: if it failed and there is no room at ``writes``
    :raises HypervisorError: if it failed otherwise; the end of what it said is the evidence
    :raises Timeout: if its time was over
    """
    completed = _run(arguments)
    if completed.returncode:
        raise _failure(arguments[0], completed, writes)
    return completed


def look(arguments: Sequence[str]) -> process.Completed:
    """Run a qemu-img command that writes nothing; the caller judges a failure.

    :raises Timeout: if its time was over
    """
    return _run(arguments, output_bytes=_OUTPUT_BYTES)


def _run(arguments: Sequence[str], output_bytes: int | None = None) -> process.Completed:
    timeout = CONF.images.qemu_img_timeout
    limits = process.Limits(
        memory_bytes=CONF.images.qemu_img_memory_mb * 2**20, cpu_s=timeout, file_bytes=output_bytes
    )
    return process.run(["qemu-img", *arguments], timeout_s=timeout, limits=limits)


def info(path: str, disk_format: str | None = None) -> DiskInfo:
    """Return what qemu-img tells of the disk at ``path``, also while a guest uses it.

    :param disk_format: None lets qemu-img guess, which only a file that we made ourselves may be given
    :raises HypervisorError: if it can't be read as that
    """
    how = [] if disk_format is None else ["-f", disk_format]
    completed = look(["info", "--output=json", "-U", *how, "--", path])
    if completed.returncode:
        raise _failure("info", completed, None)
    return parse_info(completed.stdout)


def parse_info(text: bytes) -> DiskInfo:
    """Read qemu-img's JSON.

    :raises HypervisorError: if it is not that
    """
    try:
        told: dict[str, Any] = json.loads(text)
        specific = told.get("format-specific", {}).get("data", {})
        return DiskInfo(
            path=told["filename"],
            format=told["format"],
            virtual_size=int(told["virtual-size"]),
            disk_size=int(told.get("actual-size", 0)),
            backing_file=told.get("full-backing-filename") or told.get("backing-filename"),
            backing_format=told.get("backing-filename-format"),
            data_file=specific.get("data-file") if isinstance(specific, dict) else None,
            encrypted=bool(told.get("encrypted", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.HypervisorError(f"qemu-img's answer can't be read: {error!r}") from None


def _failure(command: str, completed: process.Completed, writes: str | None) -> errors.ComputeError:
    if writes is not None and free_bytes(writes) < FULL_BELOW_BYTES:
        return errors.DiskFull(f"no room at {writes}", evidence=completed.stderr)
    how = f"status {completed.returncode}" if completed.returncode > 0 else f"signal {-completed.returncode}"
    return errors.HypervisorError(f"qemu-img {command} failed ({how})", evidence=completed.stderr)


def free_bytes(path: str) -> int:
    """Return the room that is left on the file system of ``path``'s directory."""
    try:
        room = posix.statvfs(path.rpartition("/")[0] or "/")
    except OSError:
        return 2**63
    return room.f_bavail * room.f_frsize

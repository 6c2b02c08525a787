# SPDX-License-Identifier: Apache-2.0
"""Copies of disks in the making: ``snapshot.*.part`` beside the disk, perhaps filled by a block job.

They are found by their names alone, whoever made them and was killed since.
"""

import contextlib
import glob
import os
import posix
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import fencing, mirror
from compute_agent.virt.libvirt.paths import InstancePaths

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.snapshots import LibvirtSnapshots

PREFIX, SUFFIX = "snapshot.", ".part"


def new_name() -> str:
    """Return a name for a copy: a new one each time, since a killed agent's qemu-img goes on writing."""
    return f"{PREFIX}{uuid.uuid4().hex[:12]}{SUFFIX}"


def clear(driver: "LibvirtSnapshots", instance: Instance) -> None:
    """End the job, thaw the guest, remove the copies. Safe to repeat."""
    ours = f"{driver._paths(instance).directory}/{PREFIX}"
    with contextlib.suppress(errors.InstanceNotFound):
        driver._host.act_guest(instance.uuid, mirror.end_all, lambda path: path.startswith(ours))
    driver._freezer.thaw_surely(instance.uuid)
    remove(driver, instance)


def remove(driver: "LibvirtSnapshots", instance: Instance) -> None:
    """Remove the copies, which nobody fills any more."""
    paths = driver._paths(instance)
    driver._file_threads.call(lambda: unlink(of(paths)))


# --- in native threads ---------------------------------------------------------------------------------


def allocated(file: str | int) -> int:
    """Return the bytes that a file takes on the disk."""
    return posix.stat(file).st_blocks * 512


def of(paths: InstancePaths) -> list[str]:
    """Return an instance's copies."""
    return glob.glob(f"{glob.escape(paths.directory)}/{PREFIX}*{SUFFIX}")


def left(instances_path: str) -> dict[str, list[str]]:
    """Return the copies of this host's instances, by uuid."""
    found = {paths.uuid: of(paths) for paths in fencing.of_this_host(instances_path)}
    return {uuid: copies for uuid, copies in found.items() if copies}


def unlink(paths: Iterable[str]) -> None:
    """Remove copies; those that are gone are gone."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

# SPDX-License-Identifier: Apache-2.0
"""Whether a guest can fit on this host at all. These functions run in native threads.

What other guests have been promised is the scheduler's business; here a flavor is held
against the whole host.
"""

import dataclasses
import os

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor

MIB = 2**20
GIB = 2**30
_MEMINFO = "/proc/meminfo"


@dataclasses.dataclass(frozen=True)
class Memory:
    """The host's memory in MiB; ``available`` is what new processes could get."""

    total: int
    available: int


@dataclasses.dataclass(frozen=True)
class Disk:
    """The storage of the instances, in bytes."""

    total: int
    free: int


def memory() -> Memory:
    """Read the host's memory."""
    values = {}
    with open(_MEMINFO, encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            values[name] = int(rest.split()[0]) // 1024
    return Memory(total=values["MemTotal"], available=values.get("MemAvailable", values["MemFree"]))


def disk(path: str) -> Disk:
    """Read how large the file system is that ``path`` is on, or will be on."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return Disk(total=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize)


def check(flavor: Flavor, cpus: int, instances_path: str, disk_bytes: int | None = None) -> None:
    """Hold a flavor against the host.

    :param cpus: processors of the host
    :param disk_bytes: of all disks that the guest has on the storage of the instances; None: the flavor's own
    :raises InsufficientResources: naming what it lacks
    """
    host = CONF.host
    vcpus = int(cpus * host.cpu_allocation_ratio)
    if flavor.vcpus > vcpus:
        raise _lacks("vcpus", flavor.vcpus, vcpus)
    memory_mb = int((memory().total - host.reserved_memory_mb) * host.ram_allocation_ratio)
    if flavor.memory_mb > memory_mb:
        raise _lacks("MiB of memory", flavor.memory_mb, memory_mb)
    asked = (flavor.root_gb + flavor.ephemeral_gb) * GIB + flavor.swap_mb * MIB
    if disk_bytes is not None:
        asked = disk_bytes
    total = disk(instances_path).total - host.reserved_disk_mb * MIB
    if asked > total:
        raise _lacks("MiB of disk", asked // MIB, total // MIB)


def _lacks(what: str, asked: int, there: int) -> errors.InsufficientResources:
    return errors.InsufficientResources(
        f"the instance asks for {asked} {what}, the host has {max(there, 0)} to give",
        retryable=False,
        hint="take a smaller flavor or another host; [host] has the ratios and reserves",
    )

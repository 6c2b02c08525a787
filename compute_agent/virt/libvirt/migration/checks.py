# SPDX-License-Identifier: Apache-2.0
"""What is looked at before a guest is moved, at both ends. Each check raises with what is wrong.

Whatever a check raises becomes `MigrationRefused` with its text: nothing has been changed. That libvirt does
not answer, or that the operation was cancelled, is no refusal and passes through.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import libvirt

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt import room
from compute_agent.virt.libvirt.migration.details import Destination, MovedDisk

_PASS = (
    errors.MigrationRefused,
    errors.HypervisorUnavailable,
    errors.Timeout,
    errors.Cancelled,
)
_FIT = frozenset({libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET})
MIB = 2**20


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what a check raises into a refusal."""
    try:
        yield
    except _PASS:
        raise
    except errors.ComputeError as error:
        raise errors.MigrationRefused(error.message, hint=error.hint, evidence=error.evidence) from None


def same_kind(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Hold the two hypervisors against each other.

    :raises MigrationRefused: if they are of different kinds or architectures, or QEMU is older here
    """
    if there.get("hypervisor_type") != here.get("hypervisor_type"):
        raise errors.MigrationRefused(
            f"the source has {there.get('hypervisor_type')}, this host {here.get('hypervisor_type')}"
        )
    theirs, ours = (_architecture(info) for info in (there, here))
    if theirs != ours:
        raise errors.MigrationRefused(f"the source is {theirs}, this host is {ours}")
    newer, older = (int(info.get("hypervisor_version") or 0) for info in (there, here))
    if newer // 1000 > older // 1000:  # what differs in the last number is the same machine
        raise errors.MigrationRefused(
            f"QEMU of the source is {version(newer)}, here it is {version(older)}",
            hint="bring the destination up to date first",
        )


def libvirt_fits(here: int, there: int) -> None:
    """Hold this host's libvirt against the destination's, as libvirt's numbers.

    :raises MigrationRefused: if that is older, or unknown: it may not know what the guest's XML says
    """
    if here // 1000 > there // 1000:  # what differs in the last number is the same language
        raise errors.MigrationRefused(
            f"libvirt of the destination is {version(there)}, here it is {version(here)}",
            hint="bring the destination up to date first",
        )


def _architecture(info: Mapping[str, Any]) -> str:
    cpu = info.get("cpu_info")
    return str(cpu.get("arch")) if isinstance(cpu, Mapping) else "unknown"


def version(number: int) -> str:
    """Return libvirt's number of a version in its usual form."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def has_memory(instance: Instance) -> None:
    """Say whether the guest's memory is free now. In a native thread.

    :raises InsufficientResources: if it is not
    """
    free = room.memory().available - CONF.host.reserved_memory_mb
    if instance.flavor.memory_mb > free:
        raise errors.InsufficientResources(
            f"the guest has {instance.flavor.memory_mb} MiB of memory, {max(free, 0)} MiB are free here"
        )


def processor_fits(connection: libvirt.virConnect, cpu: str, arch: str, virt_type: str) -> None:
    """Say whether this host can give a guest the processor that it has. In a native thread.

    :raises MigrationRefused: if it can't
    """
    found = connection.compareHypervisorCPU(None, arch, None, virt_type, cpu, 0)
    if found not in _FIT:
        raise errors.MigrationRefused(
            "this host can't give the guest the processor that it has",
            hint="give guests cpu_mode=custom with a model that all hosts have",
        )


def storage(data: LiveMigrateData, asked: bool | None, disks: list[MovedDisk], to: Destination) -> bool:
    """Decide whether the disks are copied.

    :param asked: what the scheduler said; None: find out
    :raises MigrationRefused: if that can't be
    """
    if asked and data.is_shared_instance_path:
        raise errors.MigrationRefused(
            "the hosts share the instances' storage", hint="leave block_migration out, or say false"
        )
    if asked is False and disks and not data.is_shared_instance_path:
        raise errors.MigrationRefused(
            "the hosts share no storage", hint="leave block_migration out, or say true"
        )
    if data.is_shared_instance_path:
        return False
    needed = sum(disk.used_bytes if data.disk_over_commit else disk.size_bytes for disk in disks)
    if needed > to.free_bytes:
        raise errors.MigrationRefused(
            f"the disks take {needed // MIB} MiB, the destination has {to.free_bytes // MIB} MiB free"
        )
    return True


def policy(wanted: LiveMigrateData) -> None:
    """Hold the policy against what the configuration permits.

    :raises MigrationRefused: if it asks for more
    """
    if wanted.post_copy and not CONF.libvirt.live_migration_permit_post_copy:
        raise errors.MigrationRefused(
            "post-copy is not permitted here", hint="[libvirt] live_migration_permit_post_copy"
        )

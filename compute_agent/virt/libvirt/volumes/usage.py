# SPDX-License-Identifier: Apache-2.0
"""What volumes did: the counters of their disks."""

from collections.abc import Mapping, Sequence
from typing import Any

import libvirt

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.info import DiskDiagnostics
from compute_agent.virt.libvirt import stats
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.volumes import found


def of_all(driver: LibvirtBase, guests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the counters of the volumes of ``guests``; a guest that is off, or does not answer, has none."""
    made = []
    for entry in guests:
        instance: Instance = entry["instance"]
        ids = {device.volume_id for device in entry["instance_bdms"] if device.volume_id}
        try:
            counted = driver._host.ask_monitor(instance.uuid, _count, ids) if ids else []
        except (errors.InstanceNotFound, errors.Timeout, errors.HypervisorError):
            continue
        made += [_of_one(instance.uuid, volume_id, disk) for volume_id, disk in counted]
    return made


def _count(domain: libvirt.virDomain, ids: set[str]) -> list[tuple[str, DiskDiagnostics]]:
    """Return the counters by volume. In a native thread."""
    if not domain.isActive():
        return []
    by_target = {disk.id: disk for disk in stats.disks(stats.count(domain))}
    found_at = {volume_id: found.look(domain, volume_id).live for volume_id in ids}
    return [
        (volume_id, by_target[disk.target])
        for volume_id, disk in found_at.items()
        if disk is not None and disk.target in by_target
    ]


def _of_one(uuid: str, volume_id: str, disk: DiskDiagnostics) -> dict[str, Any]:
    return {
        "volume": volume_id,
        "instance": uuid,
        "rd_req": disk.read_requests,
        "rd_bytes": disk.read_bytes,
        "wr_req": disk.write_requests,
        "wr_bytes": disk.write_bytes,
    }

# SPDX-License-Identifier: Apache-2.0
"""The counters of one domain. The functions that take a domain run in native threads."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import libvirt

from compute_agent.model.states import PowerState
from compute_agent.virt.info import CpuDiagnostics, DiskDiagnostics, MemoryDiagnostics, NicDiagnostics
from compute_agent.virt.libvirt import config, guest

KIB_PER_MIB = 1024
_GROUPS = (
    libvirt.VIR_DOMAIN_STATS_STATE
    | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)
_NIC_COUNTERS = {
    "rx_octets": "rx.bytes",
    "rx_packets": "rx.pkts",
    "rx_errors": "rx.errs",
    "rx_drop": "rx.drop",
    "tx_octets": "tx.bytes",
    "tx_packets": "tx.pkts",
    "tx_errors": "tx.errs",
    "tx_drop": "tx.drop",
}
_DISK_COUNTERS = {
    "read_requests": "rd.reqs",
    "read_bytes": "rd.bytes",
    "write_requests": "wr.reqs",
    "write_bytes": "wr.bytes",
    "errors_count": "errors",
}


@dataclasses.dataclass(frozen=True)
class Counted:
    """A domain's counters, with the devices that they belong to."""

    state: PowerState
    values: Mapping[str, Any]
    devices: config.Domain


def count(domain: libvirt.virDomain) -> Counted:
    """Read the counters. Asks the guest's monitor, so it may hang."""
    found = domain.connect().domainListGetStats([domain], _GROUPS, 0)
    devices = config.Domain.from_xml(domain.XMLDesc(0))
    return Counted(guest.observe(domain), found[0][1] if found else {}, devices)


def cpus(counted: Counted) -> list[CpuDiagnostics]:
    """Return the processors; time in ns."""
    number = counted.values.get("vcpu.maximum", 0)
    times = ((index, counted.values.get(f"vcpu.{index}.time")) for index in range(number))
    return [CpuDiagnostics(id=index, time=time) for index, time in times if time is not None]


def nics(counted: Counted, ids: Mapping[str, str]) -> list[NicDiagnostics]:
    """Return the interfaces.

    :param ids: VIF ids by MAC address; an interface that is not in it goes by its name on the host
    """
    interfaces = counted.devices.devices.interfaces if counted.devices.devices else []
    macs = {interface.target: interface.mac or "" for interface in interfaces}
    made = []
    for values in _items(counted.values, "net"):
        name = values.get("name", "")
        mac = macs.get(name, "")
        counters = {field: int(values.get(key, 0)) for field, key in _NIC_COUNTERS.items()}
        made.append(NicDiagnostics(id=ids.get(mac, name), mac_address=mac, **counters))
    return made


def disks(counted: Counted) -> list[DiskDiagnostics]:
    """Return the disks."""
    return [
        DiskDiagnostics(
            id=values.get("name", ""),
            **{field: int(values.get(key, 0)) for field, key in _DISK_COUNTERS.items()},
        )
        for values in _items(counted.values, "block")
    ]


def memory(counted: Counted) -> MemoryDiagnostics:
    """Return the memory in MiB."""
    values = counted.values
    return MemoryDiagnostics(
        maximum=values.get("balloon.maximum", 0) // KIB_PER_MIB,
        used=values.get("balloon.current", 0) // KIB_PER_MIB,
    )


def flat(counted: Counted) -> dict[str, Any]:
    """Return the counters in the older contracts' form: one dictionary. Memory in KiB, time in ns."""
    values = counted.values
    made: dict[str, Any] = {f"cpu{cpu.id}_time": cpu.time for cpu in cpus(counted)}
    made["memory"] = values.get("balloon.maximum", 0)
    made["memory-actual"] = values.get("balloon.current", 0)
    made["memory-rss"] = values.get("balloon.rss", 0)
    for disk in disks(counted):
        made[f"{disk.id}_read_req"] = disk.read_requests
        made[f"{disk.id}_read"] = disk.read_bytes
        made[f"{disk.id}_write_req"] = disk.write_requests
        made[f"{disk.id}_write"] = disk.write_bytes
        made[f"{disk.id}_errors"] = disk.errors_count
    for item in _items(values, "net"):
        name = item.get("name", "")
        for way in ("rx", "tx"):
            made[f"{name}_{way}"] = item.get(f"{way}.bytes", 0)
            made[f"{name}_{way}_packets"] = item.get(f"{way}.pkts", 0)
            made[f"{name}_{way}_errors"] = item.get(f"{way}.errs", 0)
            made[f"{name}_{way}_drop"] = item.get(f"{way}.drop", 0)
    return made


def _items(values: Mapping[str, Any], group: str) -> list[dict[str, Any]]:
    """Return what libvirt numbers ``group.0.x``, ``group.1.x``, … as a dictionary each."""
    made = []
    for index in range(values.get(f"{group}.count", 0)):
        prefix = f"{group}.{index}."
        made.append(
            {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        )
    return made

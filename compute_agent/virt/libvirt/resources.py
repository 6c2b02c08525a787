# SPDX-License-Identifier: Apache-2.0
"""What the host has, in the forms of the contracts. Pure, but for the functions that read ``/proc``."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import libvirt

from compute_agent.conf import CONF
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt import guest, room
from compute_agent.virt.libvirt.config import element
from compute_agent.virt.libvirt.guest import Seen

GIB = 2**30
MIB = 2**20
KIB_PER_MIB = 1024
_UP = (PowerState.RUNNING, PowerState.PAUSED)
_X86_TRAITS = {
    "aes": "AESNI", "avx": "AVX", "avx2": "AVX2", "avx512bw": "AVX512BW", "avx512cd": "AVX512CD",
    "avx512dq": "AVX512DQ", "avx512f": "AVX512F", "avx512vl": "AVX512VL", "bmi1": "BMI", "bmi2": "BMI2",
    "f16c": "F16C", "fma": "FMA3", "mmx": "MMX", "pclmulqdq": "CLMUL", "sha_ni": "SHA", "sse": "SSE",
    "sse2": "SSE2", "pni": "SSE3", "sse4_1": "SSE41", "sse4_2": "SSE42", "ssse3": "SSSE3", "svm": "SVM",
    "tbm": "TBM", "vmx": "VMX", "xop": "XOP",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """What one visit at the hypervisor told."""

    guests: list[Seen]
    version: int
    hostname: str


def visit(connection: libvirt.virConnect) -> Found:
    """Ask for all that changes. In a native thread."""
    return Found(guest.see_all(connection), connection.getVersion(), connection.getHostname())


@dataclasses.dataclass(frozen=True)
class Storage:
    """The host's own part: memory and disk."""

    memory: room.Memory
    disk: room.Disk


def measure(instances_path: str) -> Storage:
    """Read memory and disk. In a native thread."""
    return Storage(room.memory(), room.disk(instances_path))


def available(found: Found, storage: Storage, cpus: int, capabilities: str) -> dict[str, Any]:
    """Return the dictionary of ``get_available_resource``."""
    up = [seen for seen in found.guests if seen.state in _UP]
    memory, disk = storage.memory, storage.disk
    used = memory.total - memory.available
    guests_mb = sum(seen.mem_kb for seen in up) // KIB_PER_MIB
    return {
        "vcpus": cpus,
        "vcpus_used": sum(seen.vcpus for seen in up),
        "memory_mb": memory.total,
        "memory_mb_used": used,
        "local_gb": disk.total // GIB,
        "local_gb_used": (disk.total - disk.free) // GIB,
        "disk_available_least": disk.free // GIB,
        "running_vms": len(up),
        "hypervisor_type": "QEMU",
        "hypervisor_version": found.version,
        "hypervisor_hostname": found.hostname,
        "cpu_info": cpu_info(capabilities),
        "supported_instances": supported_instances(capabilities),
        "numa_topology": None,
        "memory_total": memory.total,
        "memory_free": memory.available,
        "memory_dom0": max(0, used - guests_mb),
    }


def inventory(storage: Storage, cpus: int) -> dict[str, dict[str, Any]]:
    """Return the dictionary of ``get_inventory``."""
    host = CONF.host
    disk_gb = storage.disk.total // GIB
    reserved_gb = -(-host.reserved_disk_mb * MIB // GIB)
    return {
        "VCPU": _resource(cpus, 0, host.cpu_allocation_ratio),
        "MEMORY_MB": _resource(storage.memory.total, host.reserved_memory_mb, host.ram_allocation_ratio),
        "DISK_GB": _resource(disk_gb, reserved_gb, 1.0),
    }


def _resource(total: int, reserved: int, ratio: float) -> dict[str, Any]:
    return {
        "total": total,
        "reserved": reserved,
        "min_unit": 1,
        "max_unit": max(1, total),
        "step_size": 1,
        "allocation_ratio": ratio,
    }


def cpu_info(capabilities: str) -> dict[str, Any]:
    """Return the host's processor as libvirt's capabilities tell it."""
    cpu = element.parse(capabilities).find("host/cpu")
    if cpu is None:
        return {}
    topology = cpu.find("topology")
    return {
        "arch": cpu.findtext("arch"),
        "model": cpu.findtext("model"),
        "vendor": cpu.findtext("vendor"),
        "topology": {key: int(value) for key, value in topology.attrib.items()}
        if topology is not None
        else {},
        "features": [feature.get("name") for feature in cpu.findall("feature")],
    }


def supported_instances(capabilities: str) -> list[list[str]]:
    """Return what can run here: lists of architecture, hypervisor type and machine mode."""
    made = []
    for found in element.parse(capabilities).findall("guest"):
        mode = found.findtext("os_type") or "hvm"
        for arch in found.findall("arch"):
            made += [
                [arch.get("name", ""), domain.get("type", ""), mode] for domain in arch.findall("domain")
            ]
    return made


def traits(flags: Iterable[str]) -> list[str]:
    """Return os-traits for the processor's flags."""
    return sorted(f"HW_CPU_X86_{_X86_TRAITS[flag]}" for flag in set(flags) if flag in _X86_TRAITS)


def cpu_flags() -> list[str]:
    """Read the processor's flags. In a native thread."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                return line.partition(":")[2].split()
    return []


def uptime() -> str:
    """Read how long the host is up, as ``uptime -p`` and ``uptime`` say it. In a native thread."""
    with open("/proc/uptime", encoding="ascii") as file:
        seconds = int(float(file.read().split()[0]))
    with open("/proc/loadavg", encoding="ascii") as file:
        load = ", ".join(file.read().split()[:3])
    days, rest = divmod(seconds, 86400)
    hours, minutes = rest // 3600, rest % 3600 // 60
    clock = f"{hours}:{minutes:02}" if hours else f"{minutes} min"
    up = f"{days} day{'s' if days > 1 else ''}, {clock}" if days else clock
    return f"up {up}, load average: {load}"


def cpu_stats(connection: libvirt.virConnect) -> dict[str, int]:
    """Return times in ns since boot, and the frequency in MHz. In a native thread."""
    found = connection.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)
    times = {name: int(found.get(name, 0)) for name in ("kernel", "idle", "user", "iowait")}
    return {**times, "frequency": int(connection.getInfo()[3])}

# SPDX-License-Identifier: Apache-2.0
"""Diagnostics: what fake guests are doing and what they have used."""

from collections.abc import Sequence
from typing import Any

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.fake import counters
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.fake.hypervisor import Hypervisor
from compute_agent.virt.fake.world import Domain
from compute_agent.virt.info import (
    STATE_NAMES,
    CpuDiagnostics,
    Diagnostics,
    DiskDiagnostics,
    InstanceInfo,
    MemoryDiagnostics,
    NicDiagnostics,
)

LAST_WORDS = 4096


class FakeDiagnostics(FakeBase):
    """The diagnostics concern."""

    def get_info(self, instance: Instance) -> InstanceInfo:
        """Return what the hypervisor shows of a guest. What is left of one that was moved away is none."""
        domain = self.hypervisor.get(instance.uuid)
        if domain.moved_to is not None:
            raise errors.InstanceNotFound(f"guest {instance.uuid} was moved to {domain.moved_to}")
        return info(self.hypervisor, domain)

    def get_diagnostics(self, instance: Instance) -> dict[str, Any]:
        """Return a guest's counters as a flat dictionary."""
        domain = self.hypervisor.get(instance.uuid)
        if not domain.is_up:
            raise errors.InvalidState(f"the instance is off: it is {domain.power.name}")
        each = self.hypervisor.cpu_ns(domain) // domain.vcpus
        found: dict[str, Any] = {f"cpu{number}_time": each for number in range(domain.vcpus)}
        found |= {"memory": domain.max_mem_kb, "memory-actual": domain.mem_kb}
        for target, device in domain.devices.items():
            names = ("read_req", "read", "write_req", "write", "errors")
            values = counters.disk(self.hypervisor, domain, device)
            found |= {f"{target}_{name}": value for name, value in zip(names, values, strict=True)}
        for nic in domain.nics.values():
            names8 = ("rx", "rx_packets", "rx_errors", "rx_drop", "tx", "tx_packets", "tx_errors", "tx_drop")
            values = counters.interface(self.hypervisor, domain, nic)
            found |= {f"{nic.tap}_{name}": value for name, value in zip(names8, values, strict=True)}
        return found

    def get_instance_diagnostics(self, instance: Instance) -> Diagnostics:
        """Return a guest's counters in their versioned form."""
        domain = self.hypervisor.get(instance.uuid)
        each = self.hypervisor.cpu_ns(domain) // domain.vcpus
        return Diagnostics(
            state=STATE_NAMES[domain.power],
            driver="fake",
            hypervisor="fake",
            hypervisor_os="linux",
            config_drive=any(device.source == "disk.config" for device in domain.devices.values()),
            num_cpus=domain.vcpus,
            num_nics=len(domain.nics),
            num_disks=len(domain.devices),
            cpu_details=[CpuDiagnostics(id=number, time=each) for number in range(domain.vcpus)],
            nic_details=self._nic_details(domain),
            disk_details=self._disk_details(domain),
            memory_details=MemoryDiagnostics(maximum=domain.max_mem_kb // 1024, used=domain.mem_kb // 1024),
        )

    def _nic_details(self, domain: Domain) -> list[NicDiagnostics]:
        found = []
        for nic in domain.nics.values():
            rx, rxp, rxe, rxd, tx, txp, txe, txd = counters.interface(self.hypervisor, domain, nic)
            received = {"rx_octets": rx, "rx_packets": rxp, "rx_errors": rxe, "rx_drop": rxd}
            sent = {"tx_octets": tx, "tx_packets": txp, "tx_errors": txe, "tx_drop": txd}
            found.append(NicDiagnostics(id=nic.id, mac_address=nic.mac, **received, **sent))
        return found

    def _disk_details(self, domain: Domain) -> list[DiskDiagnostics]:
        found = []
        for target, device in domain.devices.items():
            reads, read, writes, written, failed = counters.disk(self.hypervisor, domain, device)
            found.append(
                DiskDiagnostics(
                    id=target,
                    read_requests=reads,
                    read_bytes=read,
                    write_requests=writes,
                    write_bytes=written,
                    errors_count=failed,
                )
            )
        return found

    def block_stats(self, instance: Instance, disk_id: str) -> list[int]:
        """Return the counters of a disk."""
        domain = self.hypervisor.get(instance.uuid)
        device = domain.devices.get(disk_id.removeprefix("/dev/"))
        if device is None:
            raise errors.InvalidArguments(f"the guest has no disk {disk_id}")
        return counters.disk(self.hypervisor, domain, device)

    def get_all_volume_usage(
        self, context: Context, compute_host_bdms: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return what each volume did."""
        found = []
        for entry in compute_host_bdms:
            domain = self.hypervisor.find(entry["instance"].uuid)
            wanted = {bdm.volume_id for bdm in entry["instance_bdms"]}
            for device in domain.devices.values() if domain else ():
                if domain is not None and device.kind == "volume" and device.source in wanted:
                    found.append(_usage(self.hypervisor, domain, device.target))
        return found

    def get_per_instance_usage(self) -> dict[str, dict[str, Any]]:
        """Return the memory of all guests, in MiB."""
        return {
            uuid: {"uuid": uuid, "memory_mb": domain.mem_kb // 1024 if domain.is_up else 0}
            for uuid, domain in self.hypervisor.world.domains.items()
        }

    def get_last_words(self, instance: Instance) -> dict[str, str]:
        """Return the tails of a guest's logs."""
        domain = self.hypervisor.find(instance.uuid)
        if domain is None:
            return {}
        log = f"{domain.name}: started {domain.starts} times, now {STATE_NAMES[domain.power]}\n"
        return {"hypervisor": log, "console": domain.console[-LAST_WORDS:]}


def info(hypervisor: Hypervisor, domain: Domain) -> InstanceInfo:
    """Return what the hypervisor shows of a guest."""
    return InstanceInfo(
        domain.name,
        domain.power,
        uuid=domain.uuid,
        internal_id=domain.starts if domain.is_up else None,
        max_mem_kb=domain.max_mem_kb,
        mem_kb=domain.mem_kb if domain.is_up else 0,
        num_cpu=domain.vcpus,
        cpu_time_ns=hypervisor.cpu_ns(domain),
    )


def _usage(hypervisor: Hypervisor, domain: Domain, target: str) -> dict[str, Any]:
    device = domain.devices[target]
    reads, read, writes, written, _ = counters.disk(hypervisor, domain, device)
    moved = {"rd_req": reads, "rd_bytes": read, "wr_req": writes, "wr_bytes": written}
    return {"volume": device.source, "instance": domain.uuid, **moved}

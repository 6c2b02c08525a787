# SPDX-License-Identifier: Apache-2.0
"""Diagnostics: power states, counters, last words."""

import functools
from typing import Any

import libvirt

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.info import STATE_NAMES, Diagnostics, InstanceInfo
from compute_agent.virt.libvirt import faults, guest, logs, stats
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.guest import Seen

LAST_WORDS_LIMIT = 4096


def to_info(seen: Seen) -> InstanceInfo:
    """Return the contract's form."""
    return InstanceInfo(
        name=seen.name,
        state=seen.state,
        uuid=seen.uuid,
        internal_id=seen.domain_id,
        max_mem_kb=seen.max_mem_kb,
        mem_kb=seen.mem_kb,
        num_cpu=seen.vcpus,
        cpu_time_ns=seen.cpu_time_ns,
    )


class LibvirtDiagnostics(LibvirtBase):
    """The diagnostics concern."""

    def get_info(self, instance: Instance) -> InstanceInfo:
        """Return what libvirt shows of a guest. The guest's monitor is not asked, so it can't hang."""
        return to_info(self._host.ask_guest(instance.uuid, guest.see))

    def get_diagnostics(self, instance: Instance) -> dict[str, Any]:
        """Return a guest's counters as a flat dictionary."""
        counted = self._host.ask_monitor(instance.uuid, stats.count)
        if counted.state not in (PowerState.RUNNING, PowerState.PAUSED):
            raise errors.InvalidState("the instance is off")
        return stats.flat(counted)

    def get_instance_diagnostics(self, instance: Instance) -> Diagnostics:
        """Return a guest's counters in their versioned form."""
        counted = self._host.ask_monitor(instance.uuid, stats.count)
        ids = {vif.address.lower(): vif.id for vif in instance.network_info}
        cpus, nics, disks = stats.cpus(counted), stats.nics(counted, ids), stats.disks(counted)
        return Diagnostics(
            state=STATE_NAMES[counted.state],
            driver="libvirt",
            hypervisor=counted.devices.type,
            hypervisor_os="linux",
            config_drive=instance.config_drive,
            num_cpus=counted.values.get("vcpu.current", len(cpus)),
            num_nics=len(nics),
            num_disks=len(disks),
            cpu_details=cpus,
            nic_details=nics,
            disk_details=disks,
            memory_details=stats.memory(counted),
        )

    def block_stats(self, instance: Instance, disk_id: str) -> list[int]:
        """Return ``[rd_req, rd_bytes, wr_req, wr_bytes, errs]`` of a disk."""
        return self._host.ask_monitor(instance.uuid, functools.partial(_block_stats, disk_id=disk_id))

    def get_last_words(self, instance: Instance) -> dict[str, str]:
        """Return the tails of QEMU's log of the guest and of its console; what can't be read is missing."""
        paths = {"console": self._paths(instance).console_log}
        directory = self._log_directory()
        if directory is not None:
            paths["hypervisor"] = logs.guest_log(directory, instance.named().name)
        return {name: text for name, path in paths.items() if (text := self._last_words(path)) is not None}

    def _last_words(self, path: str) -> str | None:
        words = self._on_disk(logs.rotated_tail, path, LAST_WORDS_LIMIT)
        return None if words is None else words.decode("utf-8", "replace")

    def _log_directory(self) -> str | None:
        """Return where QEMU's logs are; asked again after each reconnect: it goes by the process."""
        if self._known_logs is None or self._known_logs[0] != self._host.connects:
            self._known_logs = (self._host.connects, logs.find_directory(self._host.uri))
        return self._known_logs[1]


def _block_stats(domain: libvirt.virDomain, disk_id: str) -> list[int]:
    try:
        found = domain.blockStats(disk_id)
    except libvirt.libvirtError as error:
        if faults.code(error) == libvirt.VIR_ERR_INVALID_ARG:
            raise errors.InvalidArguments(f"the instance has no disk {disk_id[:64]}") from error
        raise
    return [max(0, int(value)) for value in found]

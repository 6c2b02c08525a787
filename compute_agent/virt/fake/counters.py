# SPDX-License-Identifier: Apache-2.0
"""The counters of fake guests: made up from how long they have run, so that they rise as real ones do."""

from compute_agent.virt.fake.hypervisor import Hypervisor
from compute_agent.virt.fake.world import Device, Domain, Nic

NOTHING_MOVED = [0] * 8
BLOCK = 4096
PACKET = 100


def disk(hypervisor: Hypervisor, domain: Domain, device: Device) -> list[int]:
    """Return ``[rd_req, rd_bytes, wr_req, wr_bytes, errs]`` of a disk."""
    ticks = _ticks(hypervisor, domain)
    writes = 0 if device.read_only else ticks // 2
    return [ticks, ticks * BLOCK, writes, writes * BLOCK, 0]


def interface(hypervisor: Hypervisor, domain: Domain, nic: Nic) -> list[int]:
    """Return ``[rx_bytes, rx_packets, rx_errs, rx_drop, tx_bytes, tx_packets, tx_errs, tx_drop]``."""
    ticks = _ticks(hypervisor, domain)
    return [ticks * PACKET, ticks, 0, 0, ticks // 2 * PACKET, ticks // 2, 0, 0]


def _ticks(hypervisor: Hypervisor, domain: Domain) -> int:
    """Return a number that rises while the guest runs: its processor time in ms."""
    return hypervisor.cpu_ns(domain) // 10**6

# SPDX-License-Identifier: Apache-2.0
"""The values that driver members return. Frozen, and plain data on the wire.

Members of the published contracts that returned objects of their own (consoles, diagnostics,
instance information) return these; those that returned dictionaries or lists still do.
"""

from typing import Any, Self

import msgspec

from compute_agent.model.errors import ComputeError
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState


class _Named(msgspec.Struct, frozen=True):
    name: str
    state: PowerState


class InstanceInfo(_Named, frozen=True, kw_only=True):
    """What the hypervisor shows of a guest.

    ``name`` and ``state`` alone make one, as in the Diablo contract. Memory in KiB:
    ``max_mem_kb`` is what the guest may have, ``mem_kb`` what it has now. ``cpu_time_ns`` is
    the processor time used since the guest was started. ``internal_id`` is the hypervisor's
    own number for a guest that runs.
    """

    uuid: str = ""
    internal_id: int | None = None
    max_mem_kb: int = 0
    mem_kb: int = 0
    num_cpu: int = 0
    cpu_time_ns: int = 0


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What spawn left at the hypervisor about a guest, enough to put it on record again.

    ``instance`` has no secrets; it is None where the description can't be read any more. ``rescued`` says
    that the guest is to start from a rescue disk.
    """

    uuid: str
    name: str
    instance: Instance | None = None
    generation: int = 0
    operation_id: str | None = None
    power_state: PowerState = PowerState.NOSTATE
    rescued: bool = False


class Orphan(msgspec.Struct, frozen=True, kw_only=True):
    """Something at the hypervisor or on its disks that no record accounts for.

    ``kind`` is ``domain``, ``directory``, ``aside`` (set aside by a cold migration), ``file``, ``filter`` or
    ``interface``; ``id`` is what :meth:`destroy_orphan` takes.
    """

    kind: str
    id: str
    detail: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a host or a request is not fit, and what to do about it.

    ``code`` is that of the error which a verb would end with for it; None where it is the host's alone.
    """

    message: str
    code: str | None = None
    remedy: str = ""
    severity: str = "error"
    """``error`` or ``warning``"""

    @classmethod
    def of(cls, error: ComputeError, remedy: str = "") -> Self:
        """Return ``error`` as a problem; ``remedy`` instead of its hint."""
        return cls(message=error.message, code=error.code, remedy=remedy or error.hint or "")


class Console(msgspec.Struct, frozen=True, kw_only=True):
    """Where a guest's console is served.

    ``type`` is ``vnc``, ``spice``, ``serial``, ``rdp`` or ``mks``. ``internal_access_path`` is
    what a proxy has to send before it is let in; ``tls_port`` is SPICE's.
    """

    type: str
    host: str
    port: int | None = None
    tls_port: int | None = None
    internal_access_path: str | None = None


class MigrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a live migration is; amounts in bytes, ``rate_bps`` in bytes per second.

    ``expected_ms`` is how long the rest takes at this rate; ``stalled`` says that no less is left than was a
    while ago: the guest changes its memory as fast as it is copied.

    ``status`` is ``none``, ``preparing``, ``running``, ``post-copy``, ``completed``, ``failed``
    or ``cancelled``.
    """

    status: str = "none"
    transferred_ram: int = 0
    total_ram: int = 0
    remaining_ram: int = 0
    transferred_disk: int = 0
    total_disk: int = 0
    downtime_ms: int | None = None
    elapsed_ms: int = 0
    rate_bps: int = 0
    expected_ms: int | None = None
    stalled: bool = False


class LiveMigrateData(msgspec.Struct, kw_only=True):
    """What the two ends of a live migration agree on. Filled in as the checks go on.

    Times in ms, bandwidth in MiB/s. ``held``: what arrives stays held until
    ``post_live_migration_at_destination``, and what is left at the source until ``post_live_migration``;
    who calls that decides which copy goes on (docs/migration.md). ``details`` is the driver's own.

    ``cold``: the guest is off while its disks are brought over; ``resize``: it is to have another flavor;
    ``reverting``: it goes back to the host where it was set aside, so that nothing is brought over.
    """

    instance_uuid: str
    source_host: str = ""
    dest_host: str = ""
    block_migration: bool = False
    disk_over_commit: bool = False
    is_shared_instance_path: bool = False
    is_shared_block_storage: bool = False
    is_volume_backed: bool = False
    max_downtime_ms: int | None = None
    bandwidth_mib: int | None = None
    auto_converge: bool | None = None
    post_copy: bool | None = None
    held: bool = False
    cold: bool = False
    resize: bool = False
    reverting: bool = False
    details: dict[str, Any] = {}


class CpuDiagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """One processor of a guest; ``time`` in ns."""

    id: int
    time: int = 0


class NicDiagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """One interface of a guest. ``id`` is what :meth:`interface_stats` takes."""

    id: str
    mac_address: str
    rx_octets: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_drop: int = 0
    tx_octets: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_drop: int = 0


class DiskDiagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """One disk of a guest. ``id`` is what :meth:`block_stats` takes."""

    id: str
    read_requests: int = 0
    read_bytes: int = 0
    write_requests: int = 0
    write_bytes: int = 0
    errors_count: int = 0


class MemoryDiagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's memory, in MiB."""

    maximum: int = 0
    used: int = 0


class Diagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's counters in the versioned form of the Mitaka contract.

    ``state`` is ``running``, ``paused``, ``shutdown``, ``crashed``, ``suspended`` or
    ``pending``; ``uptime`` in seconds, None where it is not known.
    """

    state: str
    driver: str
    version: str = "1.0"
    hypervisor: str | None = None
    hypervisor_os: str | None = None
    uptime: int | None = None
    config_drive: bool = False
    num_cpus: int = 0
    num_nics: int = 0
    num_disks: int = 0
    cpu_details: list[CpuDiagnostics] = []
    nic_details: list[NicDiagnostics] = []
    disk_details: list[DiskDiagnostics] = []
    memory_details: MemoryDiagnostics = MemoryDiagnostics()


STATE_NAMES = {
    PowerState.NOSTATE: "pending",
    PowerState.RUNNING: "running",
    PowerState.PAUSED: "paused",
    PowerState.SHUTDOWN: "shutdown",
    PowerState.CRASHED: "crashed",
    PowerState.SUSPENDED: "suspended",
}
"""What :attr:`Diagnostics.state` calls each power state."""

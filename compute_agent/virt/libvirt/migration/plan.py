# SPDX-License-Identifier: Apache-2.0
"""How libvirt is asked to move a guest: a pure function of what both ends said and of the configuration."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import libvirt

from compute_agent.conf import CONF
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.migration import details, guestxml

_NARROW_MIB = 1
"""MiB per second before a post-copy is switched over: it must not end without that."""


@dataclasses.dataclass(frozen=True)
class Definitions:
    """A guest as XML, with its secrets: as it runs, and as it is started the next time; its name."""

    live: str
    inactive: str
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How libvirt is asked to move a guest."""

    uri: str
    flags: int
    parameters: Mapping[str, Any]


def moving(found: Definitions, instances_path: str, data: LiveMigrateData) -> Plan:
    """Return how the guest is to be moved."""
    to, guest = details.destination(data), details.source(data)
    options = CONF.libvirt
    post_copy = bool(data.post_copy)
    converge = (
        options.live_migration_permit_auto_converge if data.auto_converge is None else data.auto_converge
    )
    moved = [disk.target for disk in guest.disks] if data.block_migration else []
    # Defined at the destination as soon as it is there, or it would be forgotten should it go off while held;
    # and still defined here, so that it shows how the transfer ended.
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST
    flags |= libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    for wanted, flag in (
        (post_copy, libvirt.VIR_MIGRATE_POSTCOPY),
        # Libvirt does not hold what arrives in a post-copy: it runs there as soon as it may.
        (data.held and not post_copy, libvirt.VIR_MIGRATE_PAUSED),
        (converge, libvirt.VIR_MIGRATE_AUTO_CONVERGE),
        (options.live_migration_parallel_connections > 1 and not post_copy, libvirt.VIR_MIGRATE_PARALLEL),
        (options.live_migration_with_native_tls, libvirt.VIR_MIGRATE_TLS),
        (moved, libvirt.VIR_MIGRATE_NON_SHARED_DISK),
        (
            data.is_shared_instance_path and options.live_migration_trust_shared_storage,
            libvirt.VIR_MIGRATE_UNSAFE,
        ),
    ):
        flags |= flag if wanted else 0
    parameters = dict(_parameters(found, instances_path, data, flags, moved))
    return Plan(f"qemu+{options.live_migration_scheme}://{_bracketed(to.address)}/system", flags, parameters)


def mending(data: LiveMigrateData) -> Plan:
    """Return how a post-copy that broke off is gone on with."""
    address, options = _bracketed(details.destination(data).address), CONF.libvirt
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST
    flags |= libvirt.VIR_MIGRATE_POSTCOPY | libvirt.VIR_MIGRATE_POSTCOPY_RESUME
    flags |= libvirt.VIR_MIGRATE_TLS if options.live_migration_with_native_tls else 0
    parameters = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{address}"}
    return Plan(f"qemu+{options.live_migration_scheme}://{address}/system", flags, parameters)


def _parameters(
    found: Definitions, instances_path: str, data: LiveMigrateData, flags: int, moved: list[str]
) -> Iterator[tuple[str, Any]]:
    to, options = details.destination(data), CONF.libvirt
    yield libvirt.VIR_MIGRATE_PARAM_URI, f"tcp://{_bracketed(to.address)}"
    for name, xml in (
        (libvirt.VIR_MIGRATE_PARAM_DEST_XML, found.live),
        (libvirt.VIR_MIGRATE_PARAM_PERSIST_XML, found.inactive),
    ):
        changed = guestxml.for_destination(xml, instances_path, to, moved)
        if changed is not None:
            yield name, changed
    if moved:
        yield libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS, moved
    if flags & libvirt.VIR_MIGRATE_PARALLEL:
        yield libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, options.live_migration_parallel_connections
    bandwidth = options.live_migration_bandwidth if data.bandwidth_mib is None else data.bandwidth_mib
    if flags & libvirt.VIR_MIGRATE_POSTCOPY:
        bandwidth = _NARROW_MIB
    if bandwidth:
        yield libvirt.VIR_MIGRATE_PARAM_BANDWIDTH, bandwidth


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address

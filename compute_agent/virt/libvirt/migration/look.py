# SPDX-License-Identifier: Apache-2.0
"""What libvirt shows of a guest that is moved, in the words of the handshake. In native threads.

Libvirt tells the reason of each state, and forgets that of a guest that is off when it is started again: then
nobody can tell any more that the guest was transferred, and the fact is ``OFF``.
"""

import libvirt

from compute_agent.model.handshake import Fact
from compute_agent.virt.libvirt import faults

_ARRIVING = frozenset({libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP})
_POSTCOPY = frozenset({libvirt.VIR_DOMAIN_PAUSED_POSTCOPY})
_UP = frozenset({libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_SHUTDOWN})
_HELD = frozenset({libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED})
_ARRIVES_RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY)
"""The rest of its memory follows."""
_BROKEN_OFF = frozenset(
    {
        (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
        (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED),
    }
)
"""A part of its memory stayed at the source: at neither end it goes on before that has come."""


def at_source(connection: libvirt.virConnect, uuid: str) -> Fact:
    """Return the fact at the source."""
    domain = find(connection, uuid)
    if domain is None:
        return Fact.OFF
    state, reason = domain.state()
    if state not in _UP | _HELD:
        moved = (state, reason) == (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)
        return Fact.MOVED if moved else Fact.OFF
    if (state, reason) in _BROKEN_OFF:
        return Fact.SPENT
    if has_job(domain) or (state == libvirt.VIR_DOMAIN_PAUSED and reason in _POSTCOPY):
        return Fact.BUSY
    return Fact.RUNS if state in _UP else Fact.HELD


def at_destination(connection: libvirt.virConnect, uuid: str) -> Fact:
    """Return the fact at the destination."""
    domain = find(connection, uuid)
    if domain is None:
        return Fact.ABSENT
    state, reason = domain.state()
    if (state, reason) == _ARRIVES_RUNNING or (state, reason) in _BROKEN_OFF:
        return Fact.PARTIAL
    if state in _UP:
        return Fact.RUNS
    if state not in _HELD:
        return Fact.OFF
    if has_job(domain) or (state == libvirt.VIR_DOMAIN_PAUSED and reason in _ARRIVING):
        return Fact.BUSY
    return Fact.HELD


def libvirt_version(connection: libvirt.virConnect) -> int:
    """Return the version of libvirtd, as libvirt's number."""
    return int(connection.getLibVersion())


def find(connection: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
    """Return the domain; None if there is none."""
    try:
        return connection.lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if faults.code(error) != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return None


def has_job(domain: libvirt.virDomain) -> bool:
    """Return whether a job works on the domain. A guest that goes off meanwhile has none."""
    try:
        return bool(int(domain.jobInfo()[0]) != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as error:
        if faults.is_wrong_state(error):
            return False
        raise

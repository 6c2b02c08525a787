# SPDX-License-Identifier: Apache-2.0
"""What is done to one domain. These functions run in native threads, with libvirt's own object.

Each looks first and changes only what is not so already, so each may be repeated, also
after a connection broke in the middle. What changes a domain says so to its
:class:`Expectation` right before it does.
"""

import dataclasses

import libvirt

from compute_agent import concurrency
from compute_agent.model import errors
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt import faults, metadata, states
from compute_agent.virt.libvirt.events import Expectation

_RUNS = frozenset({libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED, libvirt.VIR_DOMAIN_SHUTDOWN})
END_LOOKS = 100
END_PAUSE_S = 0.1
_UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A domain as it was found. Memory in KiB, time in nanoseconds."""

    uuid: str
    name: str
    state: PowerState
    domain_id: int | None
    max_mem_kb: int
    mem_kb: int
    vcpus: int
    cpu_time_ns: int


def observe(domain: libvirt.virDomain) -> PowerState:
    """Return the power state."""
    state, reason = domain.state()
    saved = state == libvirt.VIR_DOMAIN_SHUTOFF and bool(domain.hasManagedSaveImage())
    return states.power_state(state, reason, saved)


def see(domain: libvirt.virDomain) -> Seen:
    """Return all that can be had without asking the guest's monitor."""
    return seen(domain, observe(domain))


def seen(domain: libvirt.virDomain, state: PowerState) -> Seen:
    """As :func:`see`, where the state is known."""
    _, max_mem, mem, vcpus, cpu_time = domain.info()
    number = domain.ID()
    domain_id = number if number >= 0 else None
    return Seen(domain.UUIDString(), domain.name(), state, domain_id, max_mem, mem, vcpus, cpu_time)


def see_all(connection: libvirt.virConnect) -> list[Seen]:
    """Return every domain. The guests' monitors are not asked, so none can hold this up.

    ``getAllDomainStats`` gives all states in one call; its groups on memory and processors wait for the
    monitors, which ``info`` does not.
    """
    saved = {
        domain.UUIDString()
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
    }
    found = []
    for domain, stats in connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0):
        number, reason = stats.get("state.state", 0), stats.get("state.reason", 0)
        state = states.power_state(number, reason, domain.UUIDString() in saved)
        try:
            found.append(seen(domain, state))
        except libvirt.libvirtError as error:
            if faults.code(error) != libvirt.VIR_ERR_NO_DOMAIN:  # it may have gone meanwhile
                raise
    return found


def start(domain: libvirt.virDomain, expected: Expectation, paused: bool = False) -> None:
    """Boot a domain that is off; ``paused`` before its first instruction.

    :raises InvalidState: if it is suspended: booting would lose its memory
    """
    if domain.state()[0] == libvirt.VIR_DOMAIN_CRASHED:
        domain.destroy()
    _end_start(domain)
    if domain.isActive():
        return
    if domain.hasManagedSaveImage():
        raise errors.InvalidState("the instance is suspended", hint="resume it, or power_off first")
    expected.begin()
    _create(domain, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)


def restore(domain: libvirt.virDomain, expected: Expectation, resumed: bool = False) -> None:
    """Bring a suspended domain back and let it run.

    :param resumed: an attempt was interrupted, which may have left the domain paused
    :raises InvalidState: if there is nothing to bring back
    """
    _end_start(domain)
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED and not (resumed or expected.begun):
        raise errors.InvalidState("the instance is paused, not suspended", hint="unpause lets it go on")
    if not domain.isActive():
        if not domain.hasManagedSaveImage():
            raise errors.InvalidState("the instance is off, not suspended", hint="power_on starts it")
        expected.begin()
        _create(domain, 0)
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        expected.begin()
        domain.resume()


def _end_start(domain: libvirt.virDomain) -> None:
    """End a start that is not ours, most likely of a libvirtd that is no more: it would never get done.

    A libvirtd that was just started may be at it too: then it says that the domain does not run.

    :raises HypervisorError: if libvirt can't end it
    """
    for _ in range(END_LOOKS):
        if not states.is_starting(*domain.state()):
            return
        try:
            domain.destroy()
        except libvirt.libvirtError as error:
            if faults.code(error) == libvirt.VIR_ERR_OPERATION_TIMEOUT:
                raise _cut_off(str(error)) from error
            if not faults.is_wrong_state(error):
                raise
        concurrency.native_sleep(END_PAUSE_S)
    raise _cut_off("it is neither ended nor does it go on")


def _cut_off(evidence: str) -> errors.HypervisorError:
    return errors.HypervisorError(
        "libvirtd was killed in the middle of a start and keeps the domain as starting ever since",
        hint="stop libvirtd, remove the domain's file in /run/libvirt/qemu, start libvirtd again",
        evidence=evidence,
    )


def _create(domain: libvirt.virDomain, flags: int) -> None:
    try:
        domain.createWithFlags(flags)
    except libvirt.libvirtError as error:
        if not (faults.is_wrong_state(error) and domain.isActive()):
            raise


def pull_plug(domain: libvirt.virDomain, expected: Expectation) -> bool:
    """Try to end the domain at once; return False if it is not off yet and another try makes sense."""
    _end_start(domain)
    state = domain.state()[0]
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        return True
    if state != libvirt.VIR_DOMAIN_CRASHED:
        expected.begin()
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        # A libvirtd that was just started says "not running" although it ends the guest; QEMU in an
        # uninterruptible sleep takes longer than libvirt waits.
        if not (faults.is_wrong_state(error) or faults.number(error)):
            raise
        return not domain.isActive()
    return True


def press_button(domain: libvirt.virDomain) -> bool:
    """Ask the guest to shut down; return False if it can't hear (it is off, or its processors are held)."""
    if domain.state()[0] not in _RUNS:
        return False
    try:
        domain.shutdown()
    except libvirt.libvirtError as error:
        if not faults.is_wrong_state(error):
            raise
        return False
    return True


def pause(domain: libvirt.virDomain, expected: Expectation) -> None:
    """Hold the processors.

    :raises InvalidState: if the domain is off
    """
    state = domain.state()[0]
    if state in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
        return
    if state not in _RUNS:
        raise errors.InvalidState("the instance does not run")
    expected.begin()
    domain.suspend()


def unpause(domain: libvirt.virDomain, expected: Expectation) -> None:
    """Let the processors run.

    :raises InvalidState: if the domain is off
    """
    state = domain.state()[0]
    if state in _RUNS:
        return
    if state not in (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED):
        raise errors.InvalidState("the instance does not run")
    expected.begin()
    try:
        domain.pMWakeup() if state == libvirt.VIR_DOMAIN_PMSUSPENDED else domain.resume()
    except libvirt.libvirtError as error:
        if not (faults.is_wrong_state(error) and domain.state()[0] in _RUNS):
            raise


def save(domain: libvirt.virDomain, expected: Expectation) -> None:
    """Write the memory to disk and end QEMU.

    :raises InvalidState: if the domain is off
    """
    if not domain.isActive():
        if domain.hasManagedSaveImage():
            return
        raise errors.InvalidState("the instance does not run")
    expected.begin()
    try:
        # A guest that was paused is to run when it is resumed: "resumed" means that it runs.
        domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)
    except libvirt.libvirtError as error:
        if not (faults.is_wrong_state(error) and domain.hasManagedSaveImage()):
            raise


def drop_save(domain: libvirt.virDomain) -> None:
    """Throw away a managed save, if there is one."""
    if domain.hasManagedSaveImage():
        domain.managedSaveRemove()


def undefine(domain: libvirt.virDomain) -> None:
    """Take the domain's definition away, its saves and notes too."""
    domain.undefineFlags(_UNDEFINE_FLAGS)


def definition(domain: libvirt.virDomain) -> str:
    """Return the XML of the definition (not of what runs): what the next start uses."""
    return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def write_description(domain: libvirt.virDomain, xml: str) -> None:
    """Replace our part of the metadata, in what runs and in the definition."""
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    if domain.isActive():
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml, metadata.PREFIX, metadata.NAMESPACE, flags)

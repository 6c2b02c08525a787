# SPDX-License-Identifier: Apache-2.0
"""The agent inside a guest (qemu-ga): asked with a deadline, and never believed to answer.

A guest whose file systems are frozen hangs at its next write, so none may stay so by mistake. Before
a freeze begins it is noted in the instance's directory until when it may last; whoever froze it may thaw
it earlier, and at that time it is thawed whatever happened: also after this process was killed, since
the next one reads the notes.
"""

import contextlib
import logging
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import libvirt
import libvirt_qemu
import msgspec

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import clock, errors
from compute_agent.virt.libvirt import faults, fencing, files
from compute_agent.virt.libvirt.design_devices import GUEST_AGENT
from compute_agent.virt.libvirt.host import Host
from compute_agent.virt.libvirt.paths import InstancePaths

LOG = logging.getLogger(__name__)

NOTE = "frozen"
THAW_S = 60.0
"""How long one attempt at thawing may take, whatever became of the operation that froze."""
THAW_AGAIN_S, THAW_AGAIN_MOST_S = 5.0, 60.0
_NO_AGENT = frozenset(
    {
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    }
)
_SILENT = frozenset(
    {libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED, libvirt.VIR_ERR_OPERATION_TIMEOUT}
)
_RUNS = frozenset({libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED})


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """That a guest is frozen, or about to be.

    :param until_s: the host's uptime at which it is thawed
    :param held: somebody wants it so beyond the operation, and will have it thawed
    :param expired: it was thawed at its time, and not by who froze it
    """

    operation_id: str | None
    until_s: float
    held: bool = False
    expired: bool = False


class Freezer:
    """Freezes guests' file systems, and sees to it that they are thawed.

    :param pool: of native threads, for the notes
    """

    def __init__(self, host: Host, instances_path: str, pool: concurrency.NativePool) -> None:
        self._host = host
        self._instances_path = instances_path
        self._pool = pool
        self._watched: dict[str, concurrency.Event] = {}

    def take_over(self) -> None:
        """Watch those that an earlier process has frozen. In the hub; returns at once."""
        concurrency.spawn(self._take_over)

    def freeze(self, uuid: str, limit_s: float, held: bool = False) -> int:
        """Freeze a guest's file systems for at most ``limit_s`` seconds; return how many there are.

        One that is frozen stays so, and the time begins anew; one that somebody holds is left to them.

        :param held: it is to stay frozen when the operation ends
        :raises QuiesceNotSupported: if it has no agent, or one that can't freeze
        :raises GuestAgentUnavailable: if its agent does not answer
        :raises InvalidState: if it does not run
        """
        self._host.ask_guest(uuid, check)
        before = self._read(uuid)
        if before is not None and before.held and not held:
            return 0
        note = Frozen(operation_id=steps.current().operation_id, until_s=clock.uptime() + limit_s, held=held)
        self._pool.call(files.write_note, self._paths(uuid), NOTE, note)
        self._watch(uuid, note)
        failpoints.hit("guest.freeze")
        try:
            is_noted = before is not None
            return self._host.act_guest(uuid, freeze, CONF.libvirt.guest_agent_timeout, is_noted)
        except BaseException:
            self._thaw_now_or_later(uuid)
            raise

    def thaw(self, uuid: str) -> dict[str, Any]:
        """Thaw a guest's file systems; return how many, and whether it was thawed before its time.

        :raises QuiesceNotSupported: if it has no agent
        :raises GuestAgentUnavailable: if its agent does not answer; it is asked again in the background
        :raises InvalidState: if it does not run
        """
        note = self._pool.call(files.read_note, self._paths(uuid), NOTE, Frozen)
        self._host.ask_guest(uuid, check)
        thawed = self._host.act_guest(uuid, thaw, CONF.libvirt.guest_agent_timeout)
        self._forget(uuid)
        return {"filesystems": thawed, "expired": note is not None and note.expired}

    def thaw_surely(self, uuid: str) -> bool:
        """Thaw what an operation may have frozen, also when its time is over; return whether that is certain.

        Where it can't be done now, it is tried again until it is. What somebody holds stays.
        """
        note = self._read(uuid)
        if note is None and uuid not in self._watched:
            return True
        if note is not None and note.held:
            return True
        return self._thaw_now_or_later(uuid)

    def _thaw_now_or_later(self, uuid: str) -> bool:
        if self._try_to_thaw(uuid):
            self._forget(uuid)
            return True
        self._watch(uuid, Frozen(operation_id=steps.current().operation_id, until_s=0.0))
        return False

    def _read(self, uuid: str) -> Frozen | None:
        """Return the note of a guest that may be frozen."""
        note = self._pool.call(files.read_note, self._paths(uuid), NOTE, Frozen)
        return None if note is None or note.expired else note

    # --- watching ----------------------------------------------------------------------------------

    def _paths(self, uuid: str) -> InstancePaths:
        return InstancePaths(self._instances_path, uuid)

    def _take_over(self) -> None:
        for uuid, note in self._pool.call(_notes, self._instances_path):
            if uuid not in self._watched:
                LOG.info("instance %s was frozen by an earlier process", uuid)
                self._watch(uuid, note)

    def _watch(self, uuid: str, note: Frozen) -> None:
        self._unwatch(uuid)
        over = self._watched[uuid] = concurrency.Event()
        concurrency.spawn(self._thaw_in_time, uuid, note, over)

    def _unwatch(self, uuid: str) -> None:
        watched = self._watched.pop(uuid, None)
        if watched is not None:
            watched.set()

    def _forget(self, uuid: str) -> None:
        self._unwatch(uuid)
        try:
            self._pool.call(files.drop_note, self._paths(uuid), NOTE)
        except OSError as error:  # the next process thaws it once more, which is harmless
            LOG.warning("the note that %s is frozen could not be removed: %s", uuid, error)

    def _thaw_in_time(self, uuid: str, note: Frozen, over: concurrency.Event) -> None:
        if over.wait(max(0.0, note.until_s - clock.uptime())):
            return
        LOG.warning("instance %s was frozen for as long as it may be: it is thawed", uuid)
        pause = THAW_AGAIN_S
        while not self._try_to_thaw(uuid):
            if over.wait(pause):
                return
            pause = min(2 * pause, THAW_AGAIN_MOST_S)
        if not over.is_set():
            del self._watched[uuid]
            expired = msgspec.structs.replace(note, expired=True)
            with contextlib.suppress(errors.ComputeError):  # the instance's directory may be gone
                self._pool.call(files.write_note, self._paths(uuid), NOTE, expired)

    def _try_to_thaw(self, uuid: str) -> bool:
        """Try once; return whether the guest is not frozen: one that is off, or has no agent, is not."""
        work = steps.Work(steps.current().operation_id, "thaw", uuid, deadline=time.monotonic() + THAW_S)
        with steps.working(work):
            try:
                return bool(self._host.act_guest(uuid, thaw_if_up, CONF.libvirt.guest_agent_timeout))
            except (errors.InstanceNotFound, errors.QuiesceNotSupported):
                return True
            except errors.ComputeError as error:
                LOG.warning("instance %s could not be thawed: %s", uuid, error.message)
                return False


def _notes(instances_path: str) -> list[tuple[str, Frozen]]:
    """Return the instances of this host that are noted as frozen. In a native thread."""
    found = []
    for paths in fencing.of_this_host(instances_path):
        note = files.read_note(paths, NOTE, Frozen)
        if note is not None and not note.expired:
            found.append((paths.uuid, note))
    return found


# --- on a domain, in native threads --------------------------------------------------------------------


def check(domain: libvirt.virDomain) -> None:
    """Say whether the guest's agent may be asked anything.

    :raises InvalidState: if the guest does not run
    :raises QuiesceNotSupported: if it has no agent, or none that has opened its channel
    """
    if domain.state()[0] not in _RUNS:
        raise errors.InvalidState("the guest does not run")
    found = ElementTree.fromstring(domain.XMLDesc()).find(f"devices/channel/target[@name='{GUEST_AGENT}']")
    if found is None:
        raise errors.QuiesceNotSupported(
            "the guest has no channel to an agent", hint="its image needs hw_qemu_guest_agent=yes"
        )
    if found.get("state") == "disconnected":
        raise errors.QuiesceNotSupported("no agent listens in the guest", retryable=True)


def freeze(domain: libvirt.virDomain, timeout_s: int, is_noted: bool = False) -> int:
    """Freeze the guest's file systems; return how many. Raises as :meth:`Freezer.freeze`.

    :param is_noted: they may be frozen already: an agent refuses to do it twice
    """
    with _typed("freeze"):
        if is_noted and is_frozen(domain, timeout_s):
            return 0
        domain.agentSetResponseTimeout(timeout_s, 0)
        return int(domain.fsFreeze(None, 0))


def thaw(domain: libvirt.virDomain, timeout_s: int) -> int:
    """Thaw the guest's file systems; return how many were frozen. Raises as :meth:`Freezer.thaw`."""
    if domain.state()[0] not in _RUNS:
        raise errors.InvalidState("the guest does not run")
    with _typed("thaw"):
        domain.agentSetResponseTimeout(timeout_s, 0)
        return int(domain.fsThaw(None, 0))


def thaw_if_up(domain: libvirt.virDomain, timeout_s: int) -> bool:
    """Thaw a guest that runs; return False if it may be frozen when it goes on. Raises as :func:`thaw`."""
    if domain.state()[0] in _RUNS:
        thaw(domain, timeout_s)
        return True
    return not (domain.isActive() or domain.hasManagedSaveImage())


def is_frozen(domain: libvirt.virDomain, timeout_s: int) -> bool:
    """Ask the agent whether it has frozen the guest's file systems."""
    answer = libvirt_qemu.qemuAgentCommand(domain, '{"execute": "guest-fsfreeze-status"}', timeout_s, 0)
    return bool(msgspec.json.decode(answer).get("return") == "frozen")


@contextlib.contextmanager
def _typed(what: str) -> Iterator[None]:
    """Make a typed error of what the agent, or libvirt for it, says."""
    try:
        yield
    except libvirt.libvirtError as error:
        if faults.is_lost(error):
            raise
        code, evidence = faults.code(error), str(error)
        if code in _NO_AGENT:
            raise errors.QuiesceNotSupported("the guest has no agent", evidence=evidence) from None
        if code in _SILENT:
            raise errors.GuestAgentUnavailable("the agent does not answer", evidence=evidence) from None
        if faults.is_wrong_state(error):
            raise errors.InvalidState("the guest does not run", evidence=evidence) from None
        raise errors.GuestAgentUnavailable(
            f"the agent does not {what}", retryable=False, evidence=evidence
        ) from None

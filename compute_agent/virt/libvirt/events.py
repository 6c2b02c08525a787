# SPDX-License-Identifier: Apache-2.0
"""From libvirt's lifecycle chatter to the transitions of the contract.

Libvirt tells more than what happened: a start comes as *resumed, started*, a save as
*suspended, stopped*, a restore as *started, resumed*. The same few transitions have to come
out of every driver, so this module keeps what it last heard of each domain, and a
transition is told only where that changes. What an operation of ours is about to do is
known beforehand (:meth:`Relay.expecting`), so that its intermediate states are not told.

A verb's member waits here until its own event went out. Should libvirt never tell it
(the connection broke at that moment), the domain is looked at and the event made up.
"""

import contextlib
import dataclasses
import enum
import logging
from collections.abc import Callable, Iterator

import libvirt

from compute_agent import concurrency, steps
from compute_agent.virt import event as virt_event
from compute_agent.virt.libvirt.connection import RawEvent

LOG = logging.getLogger(__name__)

EVENT_PATIENCE_S = 3.0
"""How long a member waits for an event that should have come, before it looks for itself."""
LOOKS = 3

STARTED = virt_event.EVENT_LIFECYCLE_STARTED
STOPPED = virt_event.EVENT_LIFECYCLE_STOPPED
PAUSED = virt_event.EVENT_LIFECYCLE_PAUSED
RESUMED = virt_event.EVENT_LIFECYCLE_RESUMED
SUSPENDED = virt_event.EVENT_LIFECYCLE_SUSPENDED
CRASHED = virt_event.EVENT_LIFECYCLE_CRASHED
POSTCOPY_STARTED = virt_event.EVENT_LIFECYCLE_POSTCOPY_STARTED
MIGRATION_COMPLETED = virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED


class Run(enum.Enum):
    """Whether a domain's processors run, as far as it was told."""

    OFF = "off"
    ARRIVING = "arriving"
    """it comes from another host, and does not run here yet"""
    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"


_RUN_AFTER = {
    STARTED: Run.RUNNING,
    RESUMED: Run.RUNNING,
    PAUSED: Run.PAUSED,
    STOPPED: Run.OFF,
    SUSPENDED: Run.OFF,
    CRASHED: Run.CRASHED,
    MIGRATION_COMPLETED: Run.OFF,
}
_RUN_BY_STATE = {
    libvirt.VIR_DOMAIN_RUNNING: Run.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: Run.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: Run.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: Run.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: Run.PAUSED,
    libvirt.VIR_DOMAIN_CRASHED: Run.CRASHED,
}


_NOT_RUNNING = frozenset({libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_STOPPED})
_HELD = frozenset({Run.ARRIVING, Run.PAUSED})


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What an event of libvirt means: the transition to tell, if any, the run state, whose doing it was."""

    transition: int | None
    run: Run | None
    origin: str = "host"
    detail: str | None = None


def _tells(transition: int, detail: str, origin: str = "host") -> _Rule:
    return _Rule(transition, _RUN_AFTER.get(transition), origin, detail)


_NOISE = _Rule(None, None)
_ANY = None
_RULES: dict[tuple[int, int | None], _Rule] = {
    (libvirt.VIR_DOMAIN_EVENT_STARTED, _ANY): _tells(STARTED, "booted"),
    (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED): _tells(
        RESUMED, "restored"
    ),
    (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_WAKEUP): _tells(
        RESUMED, "woken up", "guest"
    ),
    # The incoming side of a migration: the guest runs here when RESUMED/MIGRATED comes.
    (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED): _Rule(None, Run.ARRIVING),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, _ANY): _tells(PAUSED, "paused"),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR): _tells(
        PAUSED, "an I/O error of a disk"
    ),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG): _tells(
        PAUSED, "the watchdog", "guest"
    ),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED): _NOISE,
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY): _Rule(
        POSTCOPY_STARTED, None, "host", "post-copy"
    ),
    (libvirt.VIR_DOMAIN_EVENT_RESUMED, _ANY): _tells(RESUMED, "unpaused"),
    (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED): _tells(
        STARTED, "migrated"
    ),
    (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY): _tells(
        STARTED, "post-copy"
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, _ANY): _tells(STOPPED, "shut down", "unknown"),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED): _tells(
        STOPPED, "destroyed"
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED): _tells(SUSPENDED, "saved"),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED): _tells(
        MIGRATION_COMPLETED, "migrated"
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED): _tells(
        CRASHED, "the guest crashed", "guest"
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED): _tells(
        CRASHED, "QEMU ended unexpectedly", "unknown"
    ),
    (libvirt.VIR_DOMAIN_EVENT_CRASHED, _ANY): _tells(CRASHED, "the guest panicked", "guest"),
    (libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED): _NOISE,
    (libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED, _ANY): _tells(PAUSED, "the guest sleeps", "guest"),
}
_SHUTDOWN_BY = {
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST: "guest",
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST: "host",
}


class Expectation:
    """An event that an operation is about to cause."""

    def __init__(self, transition: int) -> None:
        self.transition = transition
        self.seen = concurrency.Event()
        self.begun = False

    def begin(self) -> None:
        """Say that the change is really made now. May be called from a native thread.

        :raises Timeout, Cancelled: if the operation is over: a call that hung and was given up changes
            nothing when it comes back
        """
        steps.current().check()
        self.begun = True


class Relay:
    """Turns raw events into the contract's, and lets members wait for their own.

    :param emit: where the contract's events go
    """

    def __init__(self, emit: Callable[[virt_event.Event], object]) -> None:
        self._emit_event = emit
        self.also: Callable[[RawEvent], object] | None = None
        """Who hears of each raw event as well, before anybody is told what it means."""
        self._runs: dict[str, Run] = {}
        self._shutdown_by: dict[str, str] = {}
        self._expected: dict[str, list[Expectation]] = {}

    def prime(self, states: dict[str, int]) -> None:
        """Take over what state (libvirt's number) each domain is in, without telling anyone."""
        before = self._runs
        self._runs = {uuid: _RUN_BY_STATE.get(state, Run.OFF) for uuid, state in states.items()}
        # Of those that a verb works on the news is still to come: it would be taken for known.
        self._runs |= {uuid: before[uuid] for uuid in self._expected if uuid in before}
        self._shutdown_by.clear()

    def handle(self, raw: RawEvent) -> None:
        """Take one of libvirt's events and tell what it means, if anything."""
        if self.also is not None:
            self.also(raw)
        if raw.event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
            self._shutdown_by[raw.uuid] = _SHUTDOWN_BY.get(raw.detail, "unknown")
        elif raw.event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            self._forget(raw.uuid)
        else:
            self._apply(raw)

    @contextlib.contextmanager
    def expecting(self, uuid: str, transition: int, is_so: Callable[[], bool]) -> Iterator[Expectation]:
        """Run a block that causes ``transition``, and leave it when the event went out.

        Nothing is awaited unless the block called :meth:`Expectation.begin`.

        :param is_so: tells whether the domain is where the transition leads to
        """
        expectation = Expectation(transition)
        self._expected.setdefault(uuid, []).append(expectation)
        try:
            yield expectation
            if expectation.begun:
                self._await(uuid, expectation, is_so)
        finally:
            self._expected[uuid].remove(expectation)
            if not self._expected[uuid]:
                del self._expected[uuid]

    def _await(self, uuid: str, expectation: Expectation, is_so: Callable[[], bool]) -> None:
        """Wait for an event; look now and then whether it is so already, and make the event up then.

        A libvirtd that was started again shows guests that run as paused until it has found them all.
        """
        for _ in range(LOOKS):
            if expectation.seen.wait(EVENT_PATIENCE_S):
                return
            if is_so() and not expectation.seen.is_set():
                LOG.info("libvirt did not tell that %s happened to %s", expectation.transition, uuid)
                self._tell(uuid, _tells(expectation.transition, "found to be so"))
                return
        LOG.warning("that %s happened to %s was neither told nor seen", expectation.transition, uuid)

    def _apply(self, raw: RawEvent) -> None:
        rule = _RULES.get((raw.event, raw.detail)) or _RULES.get((raw.event, _ANY), _NOISE)
        run = self._runs.get(raw.uuid, Run.OFF)
        expected = {expectation.transition for expectation in self._expected.get(raw.uuid, ())}
        if run is Run.ARRIVING and raw.event in _NOT_RUNNING:
            # Held, or dropped again: it never ran here.
            self._runs[raw.uuid] = run if raw.event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED else Run.OFF
            return
        if _is_on_the_way(raw, rule, run, expected):
            return
        if rule.transition == STARTED and PAUSED in expected:
            rule = _Rule(None, Run.RUNNING)  # the pause, which was asked for, comes next
        elif rule.transition == RESUMED and STARTED in expected and run in _HELD:
            rule = _tells(STARTED, "migrated")  # it was held when it had arrived
        elif rule.transition == RESUMED and run is Run.CRASHED:
            rule = _tells(STARTED, "restarted after a crash")
        if rule.transition is None:
            self._runs[raw.uuid] = rule.run or run
        elif rule.run is not run:
            self._tell(raw.uuid, rule)

    def _tell(self, uuid: str, rule: _Rule) -> None:
        assert rule.transition is not None
        if rule.run is not None:
            self._runs[uuid] = rule.run
        awaited = [e for e in self._expected.get(uuid, ()) if e.transition == rule.transition]
        origin = "host" if awaited else self._origin(uuid, rule)
        event = virt_event.LifecycleEvent(uuid, rule.transition, origin=origin, detail=rule.detail)
        self._emit_event(event)
        for expectation in awaited:
            expectation.seen.set()

    def _origin(self, uuid: str, rule: _Rule) -> str:
        """Return whose doing it was: for a shutdown libvirt told it a moment before."""
        shutdown_by = (
            self._shutdown_by.pop(uuid, "unknown") if rule.run in (Run.OFF, Run.CRASHED) else "unknown"
        )
        is_shutdown = rule.transition == STOPPED and rule.origin == "unknown"
        return shutdown_by if is_shutdown else rule.origin

    def _forget(self, uuid: str) -> None:
        if self._runs.get(uuid, Run.OFF) in (Run.OFF, Run.CRASHED):
            self._runs.pop(uuid, None)
            self._shutdown_by.pop(uuid, None)


def _is_on_the_way(raw: RawEvent, rule: _Rule, run: Run, expected: set[int]) -> bool:
    """Return whether an event only leads to one that is expected, or follows from one that was told."""
    if raw.event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
        # A save pauses first; a restore of a paused guest, which is to run, goes on at once.
        return SUSPENDED in expected or RESUMED in expected
    # A start lets the processors run before libvirt tells that the domain was started.
    return rule.transition == RESUMED and raw.event == libvirt.VIR_DOMAIN_EVENT_RESUMED and run is Run.OFF

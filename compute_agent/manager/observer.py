# SPDX-License-Identifier: Apache-2.0
"""What the hypervisor did, taken down: into the instance's record and the outbox, in one commit.

The driver's listener only puts an event on a queue. From there the events are handled one
by one, in order. While a verb works on an instance, its events change the power state alone;
what the instance *is* changes when the verb ends. Otherwise the state follows the guest.
"""

import collections
import logging
import time
from typing import Any

import msgspec

from compute_agent import concurrency, steps
from compute_agent.manager import host, noting, reconcile
from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.event import Cause
from compute_agent.model.states import FOLLOWED, PowerState
from compute_agent.operations.entry import Entry
from compute_agent.store import instances, journal
from compute_agent.store.database import Transaction
from compute_agent.virt import event as virt_event

LOG = logging.getLogger(__name__)

SETTLE_S = 5.0
"""How long it may take to look at what a failed or resumed operation left behind, in seconds."""
COMPARE_AGAIN_S = 10.0
RECEIVING = "receive_migration"
HYPERVISOR = "hypervisor"
"""The owner of the reason against new guests while the hypervisor is away."""


class Observer:
    """Takes down what the driver reports."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._events: collections.deque[virt_event.Event] = collections.deque()
        self._news = concurrency.Event()
        self._one = concurrency.Semaphore(1)
        self._hypervisor = virt_event.HypervisorEvent(connected=True, reason="")
        self._turned = concurrency.Event()

    def start(self) -> None:
        """Listen to the driver."""
        self._manager.driver.register_event_listener(self.receive)
        concurrency.spawn(self._run)
        concurrency.spawn(self._follow_hypervisor)

    def receive(self, event: virt_event.Event) -> None:
        """Take an event from the driver; nothing else may happen here."""
        self._events.append(event)
        self._news.set()

    def drain(self) -> None:
        """Handle what has come; what it writes is in the store's queue when this returns."""
        with self._one:
            while self._events:
                self._handle(self._events.popleft())

    def before_end(self, entry: Entry, error: errors.ComputeError | None) -> None:
        """Before an operation's end is written: what it did at the hypervisor is, and what it left."""
        self.drain()
        resumed = entry.work is not None and entry.work.resumed
        unseen = bool(entry.verb.lifecycle) and entry.events_told == 0
        if entry.instance_uuid is not None and (error is not None or resumed or unseen):
            there = self.look_again(entry, SETTLE_S)
            if error is not None and not there:  # the record must not say that it is off
                self._note_silently(entry.instance_uuid, PowerState.NOSTATE)
        self.drain()

    def before_again(self, entry: Entry) -> None:
        """Before an interrupted operation goes on: what it did is told, since it moves on from there.

        It may end here, too: the record must not say then that a guest is off that is not there. What another
        host sends is held here, and no guest of ours yet.
        """
        if entry.verb.name == RECEIVING:
            return
        if entry.instance_uuid is not None and not self.look_again(entry, SETTLE_S):
            self._note_silently(entry.instance_uuid, PowerState.NOSTATE)

    def look_again(self, entry: Entry, timeout: float) -> bool:
        """Read back the power state of the instance that a verb worked on; best effort.

        For a verb that failed, and for one that a crash interrupted: what it did before the crash
        may have been seen by nobody, and is then told as found.

        :param timeout: in seconds
        :return: False if the hypervisor says that there is no such guest
        """
        uuid, there = entry.instance_uuid or "", True
        record = self._manager.store.read(lambda tx: instances.find(tx, uuid))
        if record is None or record.gone:
            return there
        try:
            with steps.working(steps.Work(verb="look again", deadline=time.monotonic() + timeout)):
                seen = self._manager.driver.get_info(record.instance).state
        except errors.InstanceNotFound:
            if "stopped" not in entry.verb.lifecycle:
                return False
            there, seen = False, PowerState.SHUTDOWN  # by this very verb, which was killed before it told
        except (errors.ComputeError, concurrency.TimedOut) as error:
            LOG.debug("the power state of %s could not be read back: %s", uuid, error)
            return there
        was_off = record.power_state in noting.OFF | {PowerState.SUSPENDED}
        if was_off and seen in noting.OFF:  # switching off what does not run causes no event
            if record.power_state in (PowerState.SUSPENDED, PowerState.NOSTATE):
                self._note_silently(uuid, seen)
            return there

        def untold(tx: Transaction) -> bool:
            """Whether it is news even then: the guest's own event may have been on its way to the disk."""
            found = instances.find(tx, uuid)
            return found is not None and found.power_state is record.power_state

        if noting.differs(record, seen):
            noting.note_difference(
                self._manager, record, seen, Cause.OPERATION, entry, owned=True, if_still=untold
            )
        return there

    def _note_silently(self, uuid: str, power_state: PowerState) -> None:
        """Take down a power state that is news to nobody: its verb's end tells it."""

        def write(tx: Transaction) -> None:
            found = instances.find(tx, uuid)
            if found is not None and not found.gone and found.power_state is not power_state:
                instances.put(tx, msgspec.structs.replace(found, power_state=power_state))

        self._manager.store.insist(write)

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            self.drain()

    def _handle(self, event: virt_event.Event) -> None:
        try:
            if isinstance(event, virt_event.LifecycleEvent):
                self._lifecycle(event)
            elif isinstance(event, virt_event.HypervisorEvent):
                self._turn(event)
        except Exception:
            LOG.exception("an event of the driver was not handled: %s", event)

    def _lifecycle(self, event: virt_event.LifecycleEvent) -> None:
        uuid = event.get_instance_uuid()
        kind, power_state = noting.TRANSITIONS[event.get_transition()]
        if kind in noting.ENDS and noting.is_given(self._manager, uuid):
            kind, power_state = noting.TRANSITIONS[virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED]
        entry = self._manager.engine.running_on(uuid)
        caused = entry is not None and kind.value.rpartition(".")[2] in expected(entry)
        data: dict[str, Any] = {"detail": event.detail, "observed": "live"}
        if kind in noting.ENDS and not caused:
            data["last_words"] = noting.last_words(self._manager, uuid)
        cause = Cause.OPERATION if caused else Cause(event.origin)
        made_by = entry if caused else None
        operation_id, request_id = (made_by.operation_id, made_by.request_id) if made_by else (None, None)
        if made_by is not None:
            made_by.events_told += 1
        if entry is not None:
            entry.overtaken = not caused and power_state in FOLLOWED

        def write(tx: Transaction) -> None:
            owned = entry is not None and journal.runs(tx, entry.operation_id)  # its end may have come first
            noting.note(
                tx, uuid, kind, power_state, cause, operation_id, data, owned=owned, request_id=request_id
            )

        self._manager.store.submit(write, owed=True)

    # --- the hypervisor goes and comes -------------------------------------------------------------------

    def _turn(self, event: virt_event.HypervisorEvent) -> None:
        self._hypervisor = event
        if not event.connected:
            self._manager.hypervisor_away = event.reason
        self._turned.set()

    def compare_at_start(self) -> None:
        """Compare for the first time. Where that fails it is a degraded start, and is tried again."""
        try:
            self._take_over(self._hypervisor)
        except (errors.ComputeError, concurrency.TimedOut) as error:
            reason = getattr(error, "message", "") or "the hypervisor does not answer"
            LOG.warning("a degraded start: %s", reason)
            self._manager.hypervisor_away = reason
            host.disable(self._manager, HYPERVISOR, reason)
            self._turned.set()

    def _follow_hypervisor(self) -> None:
        """Take over the hypervisor's coming and going, one after the other; try again what fails."""
        while True:
            self._turned.wait()
            self._turned.clear()
            try:
                self._take_over(self._hypervisor)
            except Exception as error:
                foreseen = isinstance(error, errors.ComputeError | concurrency.TimedOut)
                LOG.warning("comparing with the hypervisor failed: %r", error, exc_info=not foreseen)
                self._turned.wait(COMPARE_AGAIN_S)
                self._turned.set()

    def _take_over(self, event: virt_event.HypervisorEvent) -> None:
        if not event.connected:
            host.disable(self._manager, HYPERVISOR, event.reason)
            return
        reconcile.after_start(self._manager)
        if self._hypervisor is event:  # else it went away again meanwhile
            self._manager.hypervisor_away = None
            host.enable(self._manager, HYPERVISOR)


def expected(entry: Entry) -> frozenset[str]:
    """Return the lifecycle events that an operation may cause."""
    extra = {"paused"} if entry.verb.makes else set()
    extra |= {"stopped"} if entry.verb.makes or entry.cancelled else set()
    extra |= entry.work.causes if entry.work is not None else set()
    return frozenset(entry.verb.lifecycle) | extra

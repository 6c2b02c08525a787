# SPDX-License-Identifier: Apache-2.0
"""One end of a migration: persists its phases, does its actions, tells the other end.

Each handshake at which something is left to do has a greenthread of its own, which takes one event after the
other; operations only wait for it, so it goes on when they have ended, and after a restart before they do.
An action that fails leaves the rest of its step undone, and what is durable is what counts; the next tick
tries again. See docs/migration.md.
"""

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from compute_agent import concurrency, failpoints
from compute_agent.manager import ends
from compute_agent.manager.moving import Destination, End, Source
from compute_agent.model import errors
from compute_agent.model.handshake import (
    OFF,
    TO_DESTINATION,
    Action,
    Do,
    Event,
    Input,
    Kind,
    Message,
    Phase,
    State,
)
from compute_agent.model.handshake import Protocol as Rules
from compute_agent.model.operation import Progress
from compute_agent.model.peer import Check
from compute_agent.store import handshakes, instances
from compute_agent.store.database import Transaction
from compute_agent.store.handshakes import HandshakeRecord

if TYPE_CHECKING:
    from compute_agent.manager.handshaking import Handshaking

LOG = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
"""How long an end waits before it says again what it has to say, or looks again."""
UNHEARD_S = 60.0
"""How long a destination may leave unanswered whether the guest may come, in seconds."""
FOR_GOOD = (Phase.CONFIRMED, Phase.DISCARDING)


class Handshake:
    """One end of a migration.

    :ivar changed: set whenever a phase became durable; who waits for it clears it
    """

    def __init__(self, owner: "Handshaking", record: HandshakeRecord) -> None:
        self.changed = concurrency.Event()
        self._owner = owner
        self._rules = Rules(record.kind)
        self._state = self._durable = State(record.phase, record.settled)
        self._checking = False
        self._data: dict[str, Any] | None = None
        self._theirs: dict[str, Any] = {}
        self._inbox: concurrency.Queue[tuple[Event, Mapping[str, Any]]] = concurrency.Queue()
        self.at_source = record.source == owner.manager.identity.host
        self.end: End = ends.end_of(owner.manager, record, self.give)

    @property
    def record(self) -> HandshakeRecord:
        """It as it is on record."""
        return self.end.record

    @property
    def phase(self) -> Phase:
        """The phase that is durable."""
        return self._durable.phase

    @property
    def decided(self) -> bool:
        """Whether it is settled who has the guest, as far as an operation here has to wait for that."""
        return self._durable.ended or self.phase in (Phase.KEPT, *FOR_GOOD)

    @property
    def progress(self) -> Progress | None:
        """How far the transfer is, where the agent itself makes it."""
        return self.end.progress

    def start(self, event: Event, payload: Mapping[str, Any] | None = None) -> None:
        """Go on by itself, beginning with ``event``."""
        self.give(event, payload)
        concurrency.spawn(self._run)

    def give(self, event: Event, payload: Mapping[str, Any] | None = None) -> None:
        """Tell it what has happened."""
        self._inbox.put((event, payload or {}))

    def abort(self, reason: errors.ComputeError) -> None:
        """Ask that the guest stays; it may be too late."""
        self.end.problem = self.end.problem or reason
        self.give(Input.ABORT)

    def answer(self, event: Event) -> None:
        """Answer a message at once. For one that is settled, or is not to be begun."""
        self._handle(event, {})

    # --- running ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause, began = FIRST_PAUSE_S, time.monotonic()
        while not self._durable.ended or len(self._inbox):  # it begins with something to hear
            try:
                event, payload = self._inbox.get(pause)
                pause = FIRST_PAUSE_S
            except concurrency.TimedOut:
                event, payload = Input.TICK, {}
                pause = min(pause * 1.5, LONGEST_PAUSE_S)
            self._handle(event, payload)
            self._give_up_unheard(began)
        self._owner.ended(self)

    def _give_up_unheard(self, began: float) -> None:
        """A destination that does not even answer whether the guest may come is not waited for."""
        unheard = self.phase is Phase.ASKED and not self.record.data
        if unheard and not self._checking and time.monotonic() - began > UNHEARD_S:
            host = self.record.destination
            self.abort(errors.DestinationUnreachable(f"the agent of {host} does not answer"))

    def _handle(self, event: Event, payload: Mapping[str, Any]) -> None:
        try:
            self._take_in(event, payload)
            self._step(event)
        except Exception as error:
            foreseen = isinstance(error, errors.ComputeError | concurrency.TimedOut)
            about = self.record.migration_id, self._durable.phase, event
            LOG.warning("migration %s (%s): %s failed: %r", *about, error, exc_info=not foreseen)
            self._state = self._durable

    def checked(self, payload: Mapping[str, Any]) -> None:
        """Take what the destination has found; then it can be asked to prepare."""
        concurrency.spawn(self._checked, payload)

    def _checked(self, payload: Mapping[str, Any]) -> None:
        if not isinstance(self.end, Source) or self.phase is not Phase.ASKED or self._checking:
            return
        self._checking = True
        try:
            if "error" in payload:
                raise _error(payload)
            self._theirs = dict(payload["data"])
            self._data = self.end.check(payload["data"])
        except errors.ComputeError as error:
            self.abort(error)
        except (concurrency.TimedOut, msgspec.ValidationError, KeyError) as error:
            self.abort(errors.MigrationRefused(f"the checks failed: {error!r}"))
        else:
            self.give(Input.TICK)
        finally:
            self._checking = False

    def _take_in(self, event: Event, payload: Mapping[str, Any]) -> None:
        """Keep what came with a message, if it is the one that was waited for."""
        phase = self._state.phase
        if event is Message.PREPARE and "attempt" in payload:
            self.end.attempt = str(payload["attempt"])
        if event is Message.READY and phase in (Phase.ASKED, Phase.MOVING):
            self._data = dict(payload.get("data", {}))
        if self._data is not None:
            self.end.record = msgspec.structs.replace(self.record, data=self._data)
            self._data = None
        if phase is not Phase.ASKED:
            return
        if event is Message.DECLINED:
            self.end.problem = _error(payload)

    def _step(self, event: Event) -> None:
        before = self._state
        self._state, actions = self._rules.step(before, event)
        if actions:
            LOG.debug(
                "migration %s: %s, %s: %s",
                self.record.migration_id,
                before.phase,
                event,
                ", ".join(actions),
            )
        for action in actions:
            self._do(action)

    def _do(self, action: Action) -> None:
        failpoints.hit(f"handshake.do.{action}")
        if isinstance(action, Message):
            self._tell(action)
        elif action is Do.PERSIST:
            self._persist()
        elif action is Do.PREPARE:
            self._prepare()
        elif action is Do.LOOK:
            self._step(self.end.look())
        elif action is Do.CONFIRM:
            self._step(Input.DONE)
        else:
            self.end.act(action)

    def _prepare(self) -> None:
        assert isinstance(self.end, Destination)
        try:
            data = self.end.prepare()
        except (errors.ComputeError, concurrency.TimedOut) as error:
            typed = error if isinstance(error, errors.ComputeError) else errors.Timeout("it took too long")
            if self._state.phase is Phase.PREPARING:  # else it has promised, and is asked again
                self.end.problem = typed
            LOG.warning("migration %s: not ready for it: %s", self.record.migration_id, typed)
            self._step(Input.FAILED)
            return
        self.end.record = msgspec.structs.replace(self.record, data=data)
        self._step(Input.PREPARED)

    def _persist(self) -> None:
        state, problem = self._state, self.end.problem
        error = problem.to_error() if problem is not None else self.record.error
        record = msgspec.structs.replace(
            self.record,
            phase=state.phase,
            settled=state.settled,
            error=error,
            begun=self.record.begun or state.phase is Phase.MOVING,
            holds=self.record.kind is Kind.COLD and state.phase in (Phase.GIVEN, Phase.OWNER),
        )
        name = f"{state.phase}.settled" if state.settled else str(state.phase)
        failpoints.hit(f"handshake.{name}.before")
        self.end.record = self._owner.manager.store.insist(lambda tx: _write(tx, record))
        self._durable = state
        failpoints.hit(f"handshake.{name}.after")
        self.changed.set()

    def _tell(self, message: Message) -> None:
        record = self.record
        host = record.destination if message in TO_DESTINATION else record.source
        payload = self._payload(message)
        if message is Message.PREPARE and not record.data:
            problem = self._owner.tell(host, record, check=Check.CHECK, payload=payload)
            if problem is not None and not problem.retryable:
                self.abort(problem)
        else:
            self._owner.tell(host, record, message=message, payload=payload)

    def _payload(self, message: Message) -> dict[str, Any]:
        if message is Message.PREPARE:
            instance = msgspec.to_builtins(self.record.instance)
            said = {"instance": instance, "kind": self.record.kind.value, "data": self.record.data}
            if self.record.kind in OFF:
                said["attempt"] = self.end.attempt
            return {**said, **self.record.request}
        if message in (Message.READY, Message.CANCEL):
            # Where this end's checks refused, the destination hears what its own have left to remove.
            return {"data": self.record.data or self._theirs}
        if message is Message.DECLINED and self.record.error is not None:
            return {"error": msgspec.to_builtins(self.record.error)}
        return {}


def _write(tx: Transaction, record: HandshakeRecord) -> HandshakeRecord:
    """Write a phase; from the decision on, the instance's record says where it went.

    Once a migration was taken back, nothing of it is set aside any more.
    """
    if record.phase is Phase.GIVEN:
        found = instances.find(tx, record.instance_uuid)
        if found is not None and not found.gone and found.moved_to is None:
            instances.put(tx, msgspec.structs.replace(found, moved_to=record.destination))
    if record.reverts is not None and record.settled and record.phase in (Phase.GIVEN, Phase.OWNER):
        handshakes.release(tx, record.reverts)
    return handshakes.put(tx, record)


def _error(payload: Mapping[str, Any]) -> errors.ComputeError:
    try:
        return errors.from_error(msgspec.convert(payload["error"], errors.Error))
    except (KeyError, msgspec.ValidationError):
        return errors.MigrationRefused("the destination has declined")

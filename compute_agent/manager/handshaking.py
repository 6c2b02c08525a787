# SPDX-License-Identifier: Apache-2.0
"""Drives the handshakes of migrations: persists their phases, does their actions, tells the other end.

Each handshake at which something is left to do has a greenthread of its own, which takes one event after the
other; operations only wait for it, so it goes on when they have ended, and after a restart before they do.
An action that fails leaves the rest of its step undone, and what is durable is what counts; the next tick
tries again. See docs/migration.md.
"""

import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from compute_agent import concurrency, failpoints
from compute_agent.manager import moving
from compute_agent.manager.manager import Manager
from compute_agent.manager.moving import Destination, End, Source
from compute_agent.model import errors
from compute_agent.model.arguments import ReceiveMigration
from compute_agent.model.handshake import (
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
from compute_agent.model.operation import Origin
from compute_agent.model.peer import Check, PeerMessage
from compute_agent.operations import acceptance
from compute_agent.store import handshakes, instances, journal
from compute_agent.store.database import Transaction
from compute_agent.store.handshakes import HandshakeRecord

LOG = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
"""How long an end waits before it says again what it has to say, or looks again."""
UNHEARD_S = 60.0
"""How long a destination may leave unanswered whether the guest may come, in seconds."""
RECEIVE = "receive_migration"


class Peer(Protocol):
    """The agents of other hosts."""

    def tell(self, host: str, message: PeerMessage) -> None:
        """Send a message; it may be lost.

        :raises DestinationUnreachable: if it could not be sent
        """


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
        self._inbox: concurrency.Queue[tuple[Event, Mapping[str, Any]]] = concurrency.Queue()
        self.at_source = record.source == owner.manager.identity.host
        self.end: End = (Source if self.at_source else Destination)(owner.manager, record, self.give)

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
        return self._durable.ended or self.phase is Phase.KEPT

    def start(self, event: Event) -> None:
        """Go on by itself, beginning with ``event``."""
        self.give(event)
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
        if self._state.phase is not Phase.ASKED:
            return
        if self._data is not None:
            self.end.record = msgspec.structs.replace(self.record, data=self._data)
            self._data = None
        if event is Message.READY:
            self.end.record = msgspec.structs.replace(self.record, data=dict(payload.get("data", {})))
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
            self.end.problem = typed
            self._step(Input.FAILED)
            return
        self.end.record = msgspec.structs.replace(self.record, data=data)
        self._step(Input.PREPARED)

    def _persist(self) -> None:
        state, problem = self._state, self.end.problem
        error = problem.to_error() if problem is not None else self.record.error
        record = msgspec.structs.replace(self.record, phase=state.phase, settled=state.settled, error=error)
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
            data = {"data": self.record.data}
            return {"instance": instance, "kind": self.record.kind.value, **data, **self.record.request}
        if message in (Message.READY, Message.CANCEL):
            return {"data": self.record.data}
        if message is Message.DECLINED and self.record.error is not None:
            return {"error": msgspec.to_builtins(self.record.error)}
        return {}


class Handshaking:
    """All handshakes of this agent.

    :param peer: the way to the other agents
    """

    def __init__(self, manager: Manager, peer: Peer) -> None:
        self.manager = manager
        self._peer = peer
        self._live: dict[str, Handshake] = {}
        self._one = concurrency.Semaphore(1)

    def recover(self) -> int:
        """Go on with what an earlier run of the agent left; return how many that are."""
        found = self.manager.store.read(handshakes.live)
        for record in found:
            LOG.info(
                "migration %s of %s goes on: %s", record.migration_id, record.instance_uuid, record.phase
            )
            handshake = self._live[record.migration_id] = Handshake(self, record)
            handshake.start(Input.RESTART)
        return len(found)

    def begin(self, record: HandshakeRecord, event: Event) -> Handshake:
        """Return the handshake of that id, begun with ``event`` if it is not on record yet."""
        with self._one:
            handshake = self._live.get(record.migration_id)
            if handshake is not None:
                return handshake
            known = self.manager.store.read(lambda tx: handshakes.find(tx, record.migration_id))
            if known is not None:
                return Handshake(self, known)
            handshake = self._live[record.migration_id] = Handshake(self, record)
        handshake.start(event)
        return handshake

    def ended(self, handshake: Handshake) -> None:
        """Strike one that is settled from those that run."""
        if self._live.get(handshake.record.migration_id) is handshake:
            del self._live[handshake.record.migration_id]

    def from_here(self, instance_uuid: str) -> Handshake | None:
        """Return the handshake by which an instance is about to leave this host; None if there is none."""
        about = (h for h in self._live.values() if h.record.instance_uuid == instance_uuid and h.at_source)
        return next((handshake for handshake in about if not handshake.decided), None)

    # --- messages --------------------------------------------------------------------------------------

    def tell(
        self, host: str, about: HandshakeRecord | PeerMessage, **said: Any
    ) -> errors.ComputeError | None:
        """Send a message about a migration to another agent. It may be lost: it is told again.

        :param said: ``message`` or ``check``, and ``payload``
        :return: why it could not be sent, if so
        """
        message = PeerMessage(
            migration_id=about.migration_id,
            instance_uuid=about.instance_uuid,
            sender=self.manager.identity.host,
            **said,
        )
        try:
            self._peer.tell(host, message)
        except errors.ComputeError as error:
            what = message.message or message.check
            LOG.warning("migration %s: %s was not told: %s", about.migration_id, what, error.message)
            return error
        return None

    def receive(self, values: Mapping[str, Any]) -> None:
        """Take a message of another agent. One that does not fit is logged and left."""
        try:
            message = msgspec.convert(values, PeerMessage)
        except msgspec.ValidationError as error:
            LOG.warning("a message of another agent makes no sense: %s", error)
            return
        LOG.debug(
            "migration %s: %s came from %s",
            message.migration_id,
            message.message or message.check,
            message.sender,
        )
        if message.check is Check.CHECK:
            self._check(message)
        elif message.check is Check.CHECKED:
            handshake = self._live.get(message.migration_id)
            if handshake is not None and handshake.record.destination == message.sender:
                handshake.checked(message.payload)
        elif message.message is not None:
            with self._one:
                self._hear(message, message.message)

    def _check(self, heard: PeerMessage) -> None:
        """See whether a guest may come. Nothing of it is kept: it is asked again if the answer is lost."""
        try:
            asked = msgspec.convert(_receiving(heard), ReceiveMigration)
            payload = {"data": moving.check_destination(self.manager, asked)}
        except msgspec.ValidationError as error:
            payload = {"error": msgspec.to_builtins(errors.InvalidArguments(str(error)).to_error())}
        except errors.ComputeError as error:
            payload = {"error": msgspec.to_builtins(error.to_error())}
        except concurrency.TimedOut:
            return
        self.tell(heard.sender, heard, check=Check.CHECKED, payload=payload)

    def _hear(self, heard: PeerMessage, message: Message) -> None:
        handshake = self._live.get(heard.migration_id)
        known = handshake.record if handshake else self._find(heard.migration_id)
        if known is None:
            self._hear_new(heard, message)
            return
        from_source = message in TO_DESTINATION
        expected = known.source if from_source else known.destination
        if heard.sender != expected or heard.instance_uuid != known.instance_uuid:
            LOG.warning("migration %s: %s came from %s", heard.migration_id, message, heard.sender)
        elif handshake is not None:
            handshake.give(message, heard.payload)
        else:
            Handshake(self, known).answer(message)

    def _find(self, migration_id: str) -> HandshakeRecord | None:
        return self.manager.store.read(lambda tx: handshakes.find(tx, migration_id))

    def _hear_new(self, heard: PeerMessage, message: Message) -> None:
        """The first that is heard of a migration: it is to be received here, or is given up already."""
        if message is Message.PREPARE:
            self._accept(heard)
        elif message is Message.CANCEL:
            record = HandshakeRecord(
                migration_id=heard.migration_id,
                instance_uuid=heard.instance_uuid,
                kind=Kind.PRECOPY,
                phase=Phase.NONE,
                source=heard.sender,
                destination=self.manager.identity.host,
            )
            moving.forget_check(self.manager, heard.payload.get("data", {}))
            Handshake(self, record).answer(message)
        else:
            LOG.warning("migration %s is not known here: %s", heard.migration_id, message)

    def _accept(self, heard: PeerMessage) -> None:
        """Journal what is to be received, once; decline it if it was refused before it began."""
        operation_id = receiving_id(heard.migration_id)
        operation = self.manager.store.read(lambda tx: journal.find(tx, operation_id))
        if operation is None:
            values = _receiving(heard)
            verb = self.manager.table[RECEIVE]
            proposal = acceptance.propose(
                verb, RECEIVE, operation_id, values, origin=Origin.PEER, unique_id=operation_id
            )
            operation = self.manager.engine.accept([proposal])[0].operation
        if operation is not None and not operation.ended:
            return
        refusal = operation.error if operation is not None else None
        payload = {"error": msgspec.to_builtins(refusal)} if refusal is not None else {}
        self.tell(heard.sender, heard, message=Message.DECLINED, payload=payload)


def receiving_id(migration_id: str) -> str:
    """Return the id of the operation at the destination that belongs to a migration."""
    return str(uuid.uuid5(uuid.UUID(migration_id), RECEIVE))


def _receiving(heard: PeerMessage) -> dict[str, Any]:
    """Return the arguments of the operation at the destination."""
    return {
        **heard.payload,
        "operation_id": receiving_id(heard.migration_id),
        "parent_operation_id": heard.migration_id,
        "migration_id": heard.migration_id,
        "source": heard.sender,
    }


def _write(tx: Transaction, record: HandshakeRecord) -> HandshakeRecord:
    """Write a phase; from the decision on, the instance's record says where it went."""
    if record.phase is Phase.GIVEN:
        found = instances.find(tx, record.instance_uuid)
        if found is not None and not found.gone and found.moved_to is None:
            instances.put(tx, msgspec.structs.replace(found, moved_to=record.destination))
    return handshakes.put(tx, record)


def _error(payload: Mapping[str, Any]) -> errors.ComputeError:
    try:
        return errors.from_error(msgspec.convert(payload["error"], errors.Error))
    except (KeyError, msgspec.ValidationError):
        return errors.MigrationRefused("the destination has declined")

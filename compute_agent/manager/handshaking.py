# SPDX-License-Identifier: Apache-2.0
"""All handshakes of migrations of this agent, and what other agents say about them."""

import logging
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from compute_agent import concurrency
from compute_agent.manager import ends, moving, resizing
from compute_agent.manager.handshake import Handshake
from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.arguments import ReceiveMigration
from compute_agent.model.handshake import TO_DESTINATION, Event, Input, Kind, Message, Phase
from compute_agent.model.operation import Origin
from compute_agent.model.peer import PROTOCOL, Check, PeerMessage
from compute_agent.operations import acceptance
from compute_agent.store import handshakes, journal
from compute_agent.store.handshakes import HandshakeRecord

LOG = logging.getLogger(__name__)

RECEIVE = "receive_migration"


class Peer(Protocol):
    """The agents of other hosts."""

    def tell(self, host: str, message: PeerMessage) -> None:
        """Send a message; it may be lost.

        :raises DestinationUnreachable: if it could not be sent
        """


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

    def go_on(
        self, record: HandshakeRecord, event: Event, payload: Mapping[str, Any] | None = None
    ) -> Handshake:
        """Return the handshake on record, told what has happened; it goes on by itself."""
        handshake = self._live.get(record.migration_id)
        if handshake is None:
            handshake = self._live[record.migration_id] = Handshake(self, record)
            handshake.start(event, payload)
        else:
            handshake.give(event, payload)
        return handshake

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
            _check_protocol(heard)
            asked = msgspec.convert(_receiving(heard), ReceiveMigration)
            payload = {"data": ends.check_destination(self.manager, asked)}
        except msgspec.ValidationError as error:
            payload = {"error": msgspec.to_builtins(errors.InvalidArguments(str(error)).to_error())}
        except errors.ComputeError as error:
            payload = {"error": msgspec.to_builtins(error.to_error())}
        except concurrency.TimedOut:
            return
        known = self._find(heard.migration_id)
        if known is not None and known.settled:  # asked late: nobody else removes what the check has left
            moving.forget_check(self.manager, payload.get("data", {}))
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
        else:
            self.go_on(known, message, heard.payload)

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
            Handshake(self, record).answer(message)
            moving.forget_check(self.manager, heard.payload.get("data", {}), heard.migration_id)
        else:
            LOG.warning("migration %s is not known here: %s", heard.migration_id, message)

    def _accept(self, heard: PeerMessage) -> None:
        """Journal what is to be received, once; decline it if it was refused before it began."""
        operation_id = receiving_id(heard.migration_id)
        operation = self.manager.store.read(lambda tx: journal.find(tx, operation_id))
        if operation is None:
            try:
                values = resizing.as_it_was(self.manager, _receiving(heard))
            except errors.ComputeError as error:
                self._decline(heard, error.to_error())
                return
            verb = self.manager.table[RECEIVE]
            proposal = acceptance.propose(
                verb, RECEIVE, operation_id, values, origin=Origin.PEER, unique_id=operation_id
            )
            operation = self.manager.engine.accept([proposal])[0].operation
        if operation is not None and not operation.ended:
            return
        self._decline(heard, operation.error if operation is not None else None)

    def _decline(self, heard: PeerMessage, refusal: errors.Error | None) -> None:
        payload = {"error": msgspec.to_builtins(refusal)} if refusal is not None else {}
        self.tell(heard.sender, heard, message=Message.DECLINED, payload=payload)


def _check_protocol(heard: PeerMessage) -> None:
    """Begin nothing with an agent of another release's handshake; what was begun before goes on.

    :raises MigrationRefused: if it is of another
    """
    if heard.protocol != PROTOCOL:
        raise errors.MigrationRefused(
            f"the agent of {heard.sender} migrates by version {heard.protocol}, this host's by {PROTOCOL}",
            hint="bring both agents to one release",
        )


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

# SPDX-License-Identifier: Apache-2.0
"""What arrives on the agent's queue: into the journal, then acknowledged; questions are answered.

A batch is one commit. Verbs are journalled alike whether they were cast or called. What can't
be understood is told as ``operation.rejected``, written in the same commit, so that no message
is lost and none crashes the agent. Only after the commit is the broker told to forget them.
"""

import dataclasses
import logging
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent import concurrency, failpoints
from compute_agent.manager import questions
from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.arguments import VERBS
from compute_agent.model.peer import METHOD as PEER_METHOD
from compute_agent.model.questions import QUESTIONS
from compute_agent.operations import acceptance
from compute_agent.rpc import envelope
from compute_agent.rpc.consumer import Consumer, RawMessage
from compute_agent.rpc.names import MESSAGE_LIMIT
from compute_agent.rpc.replies import Replier
from compute_agent.store.database import Transaction, touch

LOG = logging.getLogger(__name__)

LARGE_BYTES = 64 * 1024
"""Messages over this size are decoded in a native thread."""
QUESTIONS_AT_ONCE = 100
STATE_RETRY_S = 1.0
STATE_FILE = "state file"
"""The reason for holding messages back while the state file can't be written."""


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A message, read as far as possible: a request, or why it was refused."""

    request: envelope.Request | None = None
    refusal: errors.ComputeError | None = None
    readable: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    proposal: acceptance.Proposal | None = None


class Server:
    """Serves the agent's queue.

    :param transport: the way to the broker
    :param manager: does what is asked
    """

    def __init__(self, transport: Any, manager: Manager) -> None:
        self._manager = manager
        self._replier = Replier(transport)
        self._decoders = concurrency.NativePool("decode", 1)
        self._places = concurrency.Semaphore(QUESTIONS_AT_ONCE)
        self._hypervisor_places = concurrency.Semaphore(QUESTIONS_AT_ONCE)
        self._stopped = concurrency.Event()
        self._held: set[str] = set()
        self.consumer = Consumer(transport, server=manager.identity.host, on_batch=self.on_batch)

    def start(self) -> None:
        """Begin to consume."""
        self.consumer.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Take nothing more; what was taken is in the journal. At most ``timeout`` seconds."""
        self._stopped.set()
        self.consumer.stop(timeout)

    def on_batch(self, messages: list[RawMessage]) -> None:
        """Take in what has arrived."""
        failpoints.hit("rpc.batch")
        arrivals = [self._read(message) for message in messages]
        try:
            accepted = self._journal(arrivals)
        except errors.ComputeError as error:
            self._state_is_full(messages, error)
            return
        except Exception as error:
            if len(messages) > 1:
                LOG.warning("a batch could not be journalled, its messages are taken one by one: %r", error)
                for message in messages:
                    self.on_batch([message])
                return
            LOG.exception("a message could not be journalled; it is rejected")
            arrivals = [dataclasses.replace(arrivals[0], refusal=errors.unexpected(error), proposal=None)]
            accepted = self._journal(arrivals)
        failpoints.hit("rpc.ack.before")
        for message in messages:
            message.ack()
        failpoints.hit("rpc.ack.after")
        self._answer(arrivals, accepted)

    def _journal(self, arrivals: list[Arrival]) -> dict[int, acceptance.Accepted]:
        """Write what is asked, and what is refused, in one commit; return what was accepted by its place."""
        proposals = {number: arrival.proposal for number, arrival in enumerate(arrivals) if arrival.proposal}
        refused = [arrival for arrival in arrivals if arrival.refusal is not None]
        if not proposals and not refused:
            return {}
        accepted = self._manager.engine.accept(proposals.values(), lambda tx: _reject(tx, refused))
        return dict(zip(proposals, accepted, strict=True))

    # --- reading ---------------------------------------------------------------------------------------

    def _read(self, message: RawMessage) -> Arrival:
        if message.size > LARGE_BYTES:
            return self._decoders.call(self._arrival, message)
        return self._arrival(message)

    def _arrival(self, message: RawMessage) -> Arrival:
        """Read a message and check what it asks."""
        arrival = read(message)
        request = arrival.request
        if request is None:
            return arrival
        readable = {"method": request.method[:64]}
        if request.method == PEER_METHOD:
            return arrival
        if request.method in QUESTIONS:
            if request.is_call:
                return arrival
            misuse = errors.InvalidArguments(f"{request.method} is a question: it is asked by call")
            return dataclasses.replace(arrival, refusal=misuse, readable=readable)
        operation_id = operation_id_of(request)
        if operation_id is None:
            nobody = errors.InvalidArguments("operation_id is not a UUID, and there is no other identity")
            return dataclasses.replace(arrival, refusal=nobody, readable=readable)
        return dataclasses.replace(arrival, readable=readable, proposal=self._proposal(request, operation_id))

    def _proposal(self, request: envelope.Request, operation_id: str) -> acceptance.Proposal:
        return acceptance.propose(
            self._manager.table.get(request.method) if request.method in VERBS else None,
            request.method,
            operation_id,
            {**request.args, "operation_id": operation_id},
            context=request.context,
            unique_id=request.unique_id,
        )

    # --- answering -------------------------------------------------------------------------------------

    def _answer(self, arrivals: list[Arrival], accepted: Mapping[int, acceptance.Accepted]) -> None:
        for number, arrival in enumerate(arrivals):
            request = arrival.request
            if number in accepted:
                if request is not None and request.is_call:
                    concurrency.spawn(self._reply_record, request, accepted[number])
            elif request is not None and request.method in QUESTIONS and arrival.refusal is None:
                self._ask(request)
            elif request is not None and request.method == PEER_METHOD:
                concurrency.spawn(self._manager.handshaking.receive, request.args)
            elif arrival.refusal is not None:
                self._reply_refusal(arrival)

    def _ask(self, request: envelope.Request) -> None:
        """Answer a question in a greenthread of its own.

        Those that the record answers wait for a place, since they soon get one. Those that the hypervisor
        answers do not: it may hang, and nothing else may wait for it.
        """
        places = self._places if request.method in questions.FROM_RECORD else self._hypervisor_places
        if places.acquire(blocking=places is self._places):
            concurrency.spawn(self._reply_question, request, places)
        else:
            busy = errors.HostBusy("too many questions wait for the hypervisor", retry_after_s=5.0)
            concurrency.spawn(self._reply, request.reply_q, request.msg_id, error=busy)

    def _reply_record(self, request: envelope.Request, accepted: acceptance.Accepted) -> None:
        operation = accepted.operation
        if accepted.conflict is not None:
            self._reply(request.reply_q, request.msg_id, error=accepted.conflict)
        elif operation is None:
            gone = errors.OperationNotFound("it was done before, and its record has been aged out")
            self._reply(request.reply_q, request.msg_id, error=gone)
        elif operation.ended and operation.started_at is None and operation.error is not None:
            self._reply(request.reply_q, request.msg_id, error=errors.from_error(operation.error))
        else:
            record = msgspec.to_builtins(self._manager.engine.overlay(operation))
            self._reply(request.reply_q, request.msg_id, result=record)

    def _reply_question(self, request: envelope.Request, places: concurrency.Semaphore) -> None:
        try:
            answer = questions.ask(self._manager, request.method, request.args)
            self._reply(request.reply_q, request.msg_id, result=answer)
        except errors.ComputeError as error:
            self._reply(request.reply_q, request.msg_id, error=error)
        except Exception as error:
            LOG.exception("question %s was not answered", request.method)
            self._reply(request.reply_q, request.msg_id, error=errors.unexpected(error))
        finally:
            places.release()

    def _reply_refusal(self, arrival: Arrival) -> None:
        reply_q, msg_id = arrival.readable.get("reply_q"), arrival.readable.get("msg_id")
        if arrival.request is not None:
            reply_q, msg_id = arrival.request.reply_q, arrival.request.msg_id
        if isinstance(reply_q, str) and isinstance(msg_id, str):
            concurrency.spawn(self._reply, reply_q, msg_id, error=arrival.refusal)

    def _reply(self, reply_q: str | None, msg_id: str | None, **answer: Any) -> None:
        if reply_q and msg_id:
            self._replier.reply(reply_q, msg_id, **answer)

    # --- holding back ----------------------------------------------------------------------------------

    def hold(self, reason: str, message: str) -> None:
        """Take no messages until :meth:`release` of the same reason; they stay with the broker."""
        if reason not in self._manager.health:
            LOG.error("no messages are taken: %s: %s", reason, message)
        self._manager.health[reason] = message
        self._held.add(reason)
        self.consumer.pause()

    def release(self, reason: str) -> None:
        """Take messages again, when nothing else holds them back."""
        self._manager.health.pop(reason, None)
        if reason not in self._held:
            return
        self._held.remove(reason)
        if not self._held:
            LOG.info("messages are taken again")
            self.consumer.resume()

    def _state_is_full(self, messages: list[RawMessage], error: errors.ComputeError) -> None:
        """Give the messages back and take none until the state file can be written again."""
        for message in messages:
            message.requeue()
        if STATE_FILE not in self._manager.health:
            self.hold(STATE_FILE, error.message)
            concurrency.spawn(self._release_when_writable)

    def _release_when_writable(self) -> None:
        while not self._stopped.is_set():
            self._stopped.wait(STATE_RETRY_S)
            try:
                self._manager.store.take_on(touch)
            except errors.ComputeError:
                continue
            self.release(STATE_FILE)
            return


def read(message: RawMessage) -> Arrival:
    """Decode a message as far as possible. Raises nothing."""
    try:
        return Arrival(envelope.parse(message.body, message.content_type, MESSAGE_LIMIT))
    except errors.ComputeError as error:
        return Arrival(refusal=error, readable={"size": message.size, **envelope.salvage(message.body)})


def operation_id_of(request: envelope.Request) -> str | None:
    """Return the operation's id: the caller's, else one made of the message's; None if there is none."""
    given = request.args.get("operation_id")
    if given is None:
        return _as_uuid(request.unique_id) if request.unique_id else None
    try:
        return given if isinstance(given, str) and str(uuid.UUID(given)) == given else None
    except ValueError:
        return None


def _as_uuid(unique_id: str) -> str:
    try:
        return str(uuid.UUID(unique_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, unique_id))


HIDDEN = ("reply_q", "msg_id")


def _reject(tx: Transaction, refused: list[Arrival]) -> None:
    for arrival in refused:
        assert arrival.refusal is not None
        context = arrival.request.context if arrival.request is not None else {}
        readable = {key: value for key, value in arrival.readable.items() if key not in HIDDEN}
        acceptance.reject(tx, arrival.refusal, readable=readable, context=context)

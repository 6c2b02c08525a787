# SPDX-License-Identifier: Apache-2.0
"""Taking an operation into the journal, once, however often its message comes.

All of it happens in the transaction after which the message is acknowledged.
"""

import dataclasses
import datetime
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent.model import clock, decode, errors, secrets
from compute_agent.model.arguments import Arguments, check_files
from compute_agent.model.event import EventType
from compute_agent.model.operation import Operation, OperationState, Origin
from compute_agent.operations import telling
from compute_agent.operations.verbs import Verb
from compute_agent.store import journal, outbox
from compute_agent.store.database import Transaction


@dataclasses.dataclass(frozen=True)
class Proposal:
    """An operation that somebody asks for.

    :param values: the arguments as they came, for the journal
    :param unique_id: of the message that brought it
    :param refusal: why it can't be done at all; it then ends failed under its id
    """

    operation_id: str
    verb: str
    values: Mapping[str, Any]
    instance_uuid: str | None = None
    arguments: Arguments | None = None
    context: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unique_id: str | None = None
    origin: Origin = Origin.CALLER
    refusal: errors.ComputeError | None = None


@dataclasses.dataclass(frozen=True)
class Accepted:
    """What became of a proposal.

    :param fresh: it is new and has not ended: the engine is to run it
    :param conflict: its id stands for another operation, which is untouched
    """

    operation: Operation | None
    fresh: bool = False
    conflict: errors.OperationConflict | None = None


def propose(
    verb: Verb | None, name: str, operation_id: str, values: Mapping[str, Any], **details: Any
) -> Proposal:
    """Check arguments and return the proposal; what is wrong with them becomes its refusal."""
    uuid = _readable_uuid(values)
    if verb is None:
        refusal: errors.ComputeError = errors.UnknownVerb(f"unknown verb: {name[:64]}")
        return Proposal(operation_id, name[:64], values, uuid, refusal=refusal, **details)
    try:
        arguments = decode.arguments(values, verb.arguments)
        instance = getattr(arguments, "instance", None)
        if instance is not None:
            instance.check()
        check_files(getattr(arguments, "injected_files", ()))
    except errors.ComputeError as error:
        return Proposal(operation_id, name, values, uuid, refusal=error, **details)
    uuid = getattr(arguments, "instance_uuid", None)
    return Proposal(operation_id, name, values, uuid, arguments, **details)


def _readable_uuid(values: Mapping[str, Any]) -> str | None:
    instance = values.get("instance")
    uuid = values.get("instance_uuid") or (instance.get("uuid") if isinstance(instance, dict) else None)
    return uuid[:64] if isinstance(uuid, str) else None


def digest(key: bytes, proposal: Proposal) -> bytes:
    """Return the keyed digest of what is asked, equal for equal arguments in any order."""
    text = msgspec.json.encode([proposal.verb, dict(proposal.values)], order="deterministic")
    return hmac.digest(key, text, "sha256")


def accept(tx: Transaction, proposal: Proposal, key: bytes, *, busy: bool = False) -> Accepted:
    """Write ``proposal`` into the journal, unless its id is known.

    :param key: of :func:`digest`
    :param busy: more wait than may; a new one ends failed
    """
    print_ = digest(key, proposal)
    seen = journal.seen(tx, proposal.operation_id)
    if seen is None or seen.digest is None:
        cancelled = seen is not None and seen.cancelled
        return _new(tx, proposal, print_, busy=busy, cancelled=cancelled)
    if not hmac.compare_digest(seen.digest, print_):
        return _conflict(tx, proposal)
    return _again(tx, proposal, seen)


def _new(tx: Transaction, proposal: Proposal, print_: bytes, *, busy: bool, cancelled: bool) -> Accepted:
    now = clock.now()
    operation = _operation(tx, proposal, now)
    refusal = proposal.refusal or _refusal(tx, proposal.arguments, now, busy)
    journal.remember(tx, proposal.operation_id, print_, proposal.unique_id)
    if cancelled:
        refusal = errors.Cancelled("it was cancelled before it came")
    if refusal is not None:
        operation = telling.ended(operation, refusal)
        journal.append(tx, operation, None)
        telling.tell_end(tx, operation)
        return Accepted(operation)
    journal.append(tx, operation, dict(proposal.values))
    telling.tell(tx, EventType.OPERATION_ACCEPTED, operation)
    return Accepted(operation, fresh=True)


def _operation(tx: Transaction, proposal: Proposal, now: datetime.datetime) -> Operation:
    arguments = proposal.arguments
    return Operation(
        operation_id=proposal.operation_id,
        verb=proposal.verb,
        state=OperationState.ACCEPTED,
        host=tx.identity.host,
        host_id=tx.identity.host_id,
        instance_uuid=proposal.instance_uuid,
        origin=proposal.origin,
        accepted_at=clock.timestamp(now),
        parent_operation_id=arguments.parent_operation_id if arguments else None,
        retry_of=arguments.retry_of if arguments else None,
        context=dict(proposal.context),
    )


def _refusal(
    tx: Transaction, arguments: Arguments | None, now: datetime.datetime, busy: bool
) -> errors.ComputeError | None:
    assert arguments is not None
    if arguments.host_id is not None and arguments.host_id != tx.identity.host_id:
        return errors.WrongHost(f"this is host {tx.identity.host_id}, not {arguments.host_id}")
    if arguments.expires_at is not None and arguments.expires_at <= now:
        return errors.Expired(f"it expired at {clock.timestamp(arguments.expires_at)}")
    if busy:
        return errors.HostBusy("too many operations are waiting", retry_after_s=5.0)
    return None


def _conflict(tx: Transaction, proposal: Proposal) -> Accepted:
    conflict = errors.OperationConflict(
        f"operation {proposal.operation_id} was asked for before, with other arguments"
    )
    readable = {"method": proposal.verb}
    reject(tx, conflict, operation_id=proposal.operation_id, readable=readable, context=proposal.context)
    return Accepted(journal.find(tx, proposal.operation_id), conflict=conflict)


def _again(tx: Transaction, proposal: Proposal, seen: journal.SeenId) -> Accepted:
    operation = journal.find(tx, proposal.operation_id)
    asked_anew = proposal.unique_id != seen.unique_id
    if operation is not None and operation.ended and asked_anew:
        telling.tell_end(tx, operation, repeated=True)
    return Accepted(operation)


def reject(
    tx: Transaction,
    error: errors.ComputeError,
    *,
    operation_id: str | None = None,
    readable: Mapping[str, Any] | None = None,
    context: Mapping[str, Any] | None = None,
) -> None:
    """Tell that a message was refused, with what was readable of it."""
    outbox.append(
        tx,
        EventType.OPERATION_REJECTED,
        operation_id=operation_id,
        request_id=(context or {}).get("request_id"),
        data={"error": secrets.redacted(error.to_error()), "message": dict(readable or {})},
    )

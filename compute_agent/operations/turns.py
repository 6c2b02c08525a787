# SPDX-License-Identifier: Apache-2.0
"""An operation's two turns in the state file: its beginning and its end, one transaction each.

Whether a verb may start is decided here, at its turn and not at its arrival, because what
stood in line before it may have changed the instance. Its end, the instance's new record and
the events of both are one commit: nobody ever sees one without the other.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from compute_agent.conf import CONF
from compute_agent.model import clock, decode, errors, secrets
from compute_agent.model.arguments import Arguments, ReceiveMigration
from compute_agent.model.event import EventType
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Lane, Operation, OperationState, Timing
from compute_agent.model.states import FOLLOWED, SETTLED, InstanceState, PowerState, change, follow
from compute_agent.operations import telling
from compute_agent.operations.verbs import OnFailure, Outcome, Recovery, Verb
from compute_agent.store import host, instances, journal
from compute_agent.store.database import Transaction


@dataclasses.dataclass(frozen=True)
class Begun:
    """An operation at its turn. ``arguments`` is None when it ended at once."""

    operation: Operation
    arguments: Arguments | None = None
    record: InstanceRecord | None = None


# --- the beginning ---------------------------------------------------------------------------------


def begin(tx: Transaction, verb: Verb, operation_id: str, queued_ms: float) -> Begun:
    """Begin an operation, or end it at once when it may not start or there is nothing to do."""
    operation = journal.find(tx, operation_id)
    assert operation is not None and not operation.ended
    interrupted = operation.state is OperationState.RUNNING
    try:
        arguments: Any = decode.arguments(journal.arguments(tx, operation_id), verb.arguments)
        if interrupted:
            _check_resumable(verb, operation)
        record = _find(tx, operation) if interrupted else admit(tx, verb, operation, arguments)
    except errors.ComputeError as error:
        left = ("what an earlier attempt did",) if interrupted else ()
        return Begun(end(tx, verb, operation, error, left=left))
    if not interrupted and record is not None and record.state in verb.already:
        return Begun(end(tx, verb, operation, None, Outcome({"already": True}, state=record.state)))
    operation = msgspec.structs.replace(
        operation,
        state=OperationState.RUNNING,
        attempts=operation.attempts + 1,
        started_at=operation.started_at or clock.timestamp(),
        timing=Timing(queued_ms=round(queued_ms, 3)),
    )
    journal.update(tx, operation)
    telling.tell(tx, EventType.OPERATION_STARTED, operation)
    return Begun(operation, arguments, _enter(tx, verb, operation, record))


def _check_resumable(verb: Verb, operation: Operation) -> None:
    if verb.recovery is Recovery.INTERRUPTED:
        raise errors.Interrupted(f"a crash interrupted {verb.name}; whether it took effect is not known")
    if operation.attempts > CONF.journal.max_attempts:  # the last of them was to undo it
        raise errors.Interrupted(f"{verb.name} was interrupted {operation.attempts} times")


def generation_of(values: Mapping[str, Any]) -> int:
    """Return the generation that a request's plain, checked arguments speak for; 0 if none."""
    instance = values.get("instance") or {}
    return max(values.get("generation") or 0, instance.get("generation") or 0)


def timely(tx: Transaction, operation: Operation, values: Mapping[str, Any]) -> bool:
    """Whether a request's generation and revision fit the record as it stands."""
    record = _find(tx, operation)
    if record is None or record.gone:
        return True
    revision = values.get("if_revision")
    stale = values.get("generation") is not None and values["generation"] < record.generation
    return not stale and revision in (None, record.revision)


def _find(tx: Transaction, operation: Operation) -> InstanceRecord | None:
    return instances.find(tx, operation.instance_uuid) if operation.instance_uuid else None


def admit(tx: Transaction, verb: Verb, operation: Operation, arguments: Any) -> InstanceRecord | None:
    """Say whether a verb may start now, and on which record. Writes nothing.

    :return: the record that it is about (for one that makes an instance, the one to be); None if none
    :raises ComputeError: why it may not
    """
    if arguments.expires_at is not None and arguments.expires_at <= clock.now():
        raise errors.Expired(f"it expired at {clock.timestamp(arguments.expires_at)}, before its turn")
    if verb.makes:
        return _admit_new(tx, arguments)
    if operation.instance_uuid is None:
        return None
    if verb.optional:
        record = instances.find(tx, operation.instance_uuid)
        if record is None or record.gone:
            return None
    else:
        record = instances.get(tx, operation.instance_uuid)
    _check_conditions(record, arguments)
    _check_state(verb, record, arguments)
    return record


def _admit_new(tx: Transaction, arguments: Any) -> InstanceRecord:
    instance = arguments.instance.named()
    generation = max(instance.generation, arguments.generation or 0)
    previous = instances.find(tx, instance.uuid)
    reasons = host.reasons(tx)
    if reason := reasons.get(host.OPERATOR) or reasons.get(host.MAINTENANCE):
        raise errors.HostDisabled(f"this host takes no new guests: {reason}")
    if previous is not None and not previous.gone:
        if generation < previous.generation:
            raise errors.StaleGeneration(f"generation {generation} is below {previous.generation}")
        raise errors.InstanceExists(f"instance {instance.uuid} is here already, {previous.state}")
    comes_back = previous is not None and previous.moved_to is not None and _hands_over(arguments)
    if previous is not None and generation < previous.generation + (not comes_back):
        raise errors.StaleGeneration(
            f"instance {instance.uuid} was here with generation {previous.generation}; a higher one is needed"
        )
    instance = msgspec.structs.replace(instance, generation=generation)
    record = InstanceRecord(
        uuid=instance.uuid,
        instance=instance,
        state=InstanceState.BUILDING,
        generation=generation,
        revision=previous.revision if previous else 0,
    )
    instances.refuse_taken_name(tx, record)
    return record


def _hands_over(arguments: Any) -> bool:
    """Whether the instance comes from another agent that hands it over: its placement need not be newer."""
    return isinstance(arguments, ReceiveMigration)


def _check_conditions(record: InstanceRecord, arguments: Any) -> None:
    if arguments.generation is not None and arguments.generation < record.generation:
        raise errors.StaleGeneration(f"generation {arguments.generation} is below {record.generation}")
    if arguments.if_revision is not None and arguments.if_revision != record.revision:
        raise errors.PreconditionFailed(
            f"the record has revision {record.revision}, not {arguments.if_revision}"
        )


def _check_state(verb: Verb, record: InstanceRecord, arguments: Any) -> None:
    if verb.starts_from is None or record.state in verb.already:
        return
    hard_reboot = record.state is InstanceState.ERROR and getattr(arguments, "reboot_type", "HARD") != "HARD"
    if record.state not in verb.starts_from or hard_reboot:
        allowed = ", ".join(sorted(verb.starts_from))
        raise errors.InvalidState(f"{verb.name} can't start from {record.state}; it starts from {allowed}")


def _enter(
    tx: Transaction, verb: Verb, operation: Operation, record: InstanceRecord | None
) -> InstanceRecord | None:
    """Write the record that stands while the verb runs."""
    if record is None or verb.working is None:
        return record
    known = instances.find(tx, record.uuid)
    if known is not None and known.state is verb.working:
        return known  # an interrupted operation: it was written then
    if known is not None and known.gone:
        instances.keep_tombstone(tx, known)
    state = change(record.state, verb.working)
    maker = operation.operation_id if verb.makes else record.operation_id
    record = instances.put(tx, msgspec.structs.replace(record, state=state, operation_id=maker))
    telling.tell_record(tx, EventType.INSTANCE_UPDATED, record, operation)
    return record


# --- the end -----------------------------------------------------------------------------------------


def end(
    tx: Transaction,
    verb: Verb,
    operation: Operation,
    error: errors.ComputeError | None,
    outcome: Outcome | None = None,
    timing: Timing | None = None,
    left: Sequence[str] = (),
) -> Operation:
    """End an operation, write what it made of the instance, and tell both.

    :param left: what a failed one has left behind and could not undo
    """
    stored = journal.find(tx, operation.operation_id)
    if stored is not None and stored.ended:
        return stored
    outcome = outcome or Outcome()
    if error is not None and left:
        error.hint = "; ".join(filter(None, (f"not undone: {', '.join(left)}", error.hint)))
    began = operation.state is OperationState.RUNNING
    operation = telling.ended(
        operation,
        error,
        result=outcome.result or None if error else outcome.result,
        step=error.step if error else None,
        timing=timing or operation.timing,
    )
    if began and operation.instance_uuid and verb.lane is not Lane.CONTROL:
        # What a control verb speaks to is still at work on the instance: its record is that one's.
        _settle(tx, verb, operation, error, outcome, left)
    journal.update(tx, operation)
    telling.tell_end(tx, operation)
    return operation


def put_back(tx: Transaction, operation_id: str) -> None:
    """Leave an operation to the next start of the agent: that it was begun in this one does not count."""
    operation = journal.find(tx, operation_id)
    if operation is not None and not operation.ended:
        journal.update(tx, msgspec.structs.replace(operation, attempts=operation.attempts - 1))


def give_up(tx: Transaction, operation: Operation, error: errors.ComputeError) -> None:
    """End an operation whose verb is not known; the instance's record stays as it is."""
    operation = telling.ended(operation, error)
    journal.update(tx, operation)
    telling.tell_end(tx, operation)


def _settle(
    tx: Transaction,
    verb: Verb,
    operation: Operation,
    error: errors.ComputeError | None,
    outcome: Outcome,
    left: Sequence[str],
) -> None:
    assert operation.instance_uuid is not None
    record = instances.find(tx, operation.instance_uuid)
    tombstone = instances.take_tombstone(tx, operation.instance_uuid) if verb.makes else None
    if error is None:
        if record is not None or outcome.change:
            _settle_success(tx, operation, record, outcome)
    elif record is None:
        return
    elif verb.on_failure is not OnFailure.REMOVE:
        _settle_failure(tx, verb, operation, record, error, left)
    elif left:
        _settle_remains(tx, operation, record, error, left)
    else:
        _settle_removal(tx, operation, record, tombstone)


def _settle_success(
    tx: Transaction, operation: Operation, record: InstanceRecord | None, outcome: Outcome
) -> None:
    before = record
    if outcome.forgotten and record is not None:
        instances.remove(tx, record.uuid)
        telling.tell_record(tx, EventType.INSTANCE_REMOVED, record, operation)
        return
    if outcome.change is not None:
        record = outcome.change(record)  # type: ignore[arg-type]
    assert record is not None
    if outcome.gone:
        record = msgspec.structs.replace(
            record, state=InstanceState.GONE, instance=secrets.without(record.instance), error=None
        )
        record = instances.put(tx, record)
        telling.tell_record(tx, EventType.INSTANCE_REMOVED, record, operation)
        return
    state = change(record.state, outcome.state) if outcome.state else _followed(record, outcome.follow)
    # A guest that was off already sends no event: then it is the verb that says how it is.
    power_state = SHOWN_BY.get(state, record.power_state) if outcome.state else record.power_state
    kept = record.error if state is InstanceState.ERROR else None
    record = msgspec.structs.replace(record, state=state, power_state=power_state, error=kept)
    if record != before:
        telling.tell_record(tx, EventType.INSTANCE_UPDATED, instances.put(tx, record), operation)


def _settle_failure(
    tx: Transaction,
    verb: Verb,
    operation: Operation,
    record: InstanceRecord,
    error: errors.ComputeError,
    left: Sequence[str],
) -> None:
    state = _followed(record)
    unfit = verb.on_failure is OnFailure.ERROR and not isinstance(error, errors.Cancelled)
    missing = record.power_state is PowerState.NOSTATE and state in WITH_GUEST
    remains = verb.on_failure is OnFailure.AS_BEFORE and bool(left)
    if missing or remains or (unfit and state is not InstanceState.ACTIVE):
        state = InstanceState.ERROR
    reason = error.to_error() if state is InstanceState.ERROR else record.error
    changed = msgspec.structs.replace(record, state=change(record.state, state), error=reason)
    if changed != record:
        telling.tell_record(tx, EventType.INSTANCE_UPDATED, instances.put(tx, changed), operation)


def _settle_removal(
    tx: Transaction, operation: Operation, record: InstanceRecord, tombstone: InstanceRecord | None
) -> None:
    """Nothing came to be: what stood there before, if anything, stands again."""
    if tombstone is not None:
        instances.put(tx, tombstone)
    else:
        instances.remove(tx, record.uuid)
    telling.tell_record(tx, EventType.INSTANCE_REMOVED, record, operation)


def _settle_remains(
    tx: Transaction,
    operation: Operation,
    record: InstanceRecord,
    error: errors.ComputeError,
    left: Sequence[str],
) -> None:
    """Something is left at the hypervisor or on its disks: the record stays, so that it can be destroyed."""
    hint = f"not undone: {', '.join(left)}; destroy removes what is left"
    reason = msgspec.structs.replace(error.to_error(), hint=hint)
    changed = msgspec.structs.replace(record, state=change(record.state, InstanceState.ERROR), error=reason)
    telling.tell_record(tx, EventType.INSTANCE_UPDATED, instances.put(tx, changed), operation)


WITH_GUEST = SETTLED | {InstanceState.RESCUED, InstanceState.SOFT_DELETED}
"""States of an instance that has a guest at the hypervisor."""

SHOWN_BY = {state: power for power, state in FOLLOWED.items() if power is not PowerState.CRASHED}
"""The power state that goes with a settled state."""


def _followed(record: InstanceRecord, whatever: bool = False) -> InstanceState:
    """The state that the power state shows; also for one whose work has just ended."""
    if record.state in SETTLED:
        return follow(record.state, record.power_state)
    if whatever or record.state in (InstanceState.BUILDING, InstanceState.MIGRATING):
        return change(record.state, FOLLOWED.get(record.power_state, InstanceState.ERROR))
    return record.state

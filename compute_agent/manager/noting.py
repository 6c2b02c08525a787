# SPDX-License-Identifier: Apache-2.0
"""Noting what the hypervisor shows: the record's power state and its event, in one commit."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from compute_agent import concurrency, steps
from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.event import Cause, EventType
from compute_agent.model.handshake import Fact, Kind, Phase
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.states import InstanceState, PowerState, follow
from compute_agent.operations import telling
from compute_agent.operations.entry import Entry
from compute_agent.store import handshakes, instances, outbox
from compute_agent.store.database import Transaction
from compute_agent.virt import event as virt_event

LOG = logging.getLogger(__name__)

TRANSITIONS: dict[int, tuple[EventType, PowerState]] = {
    virt_event.EVENT_LIFECYCLE_STARTED: (EventType.LIFECYCLE_STARTED, PowerState.RUNNING),
    virt_event.EVENT_LIFECYCLE_STOPPED: (EventType.LIFECYCLE_STOPPED, PowerState.SHUTDOWN),
    virt_event.EVENT_LIFECYCLE_PAUSED: (EventType.LIFECYCLE_PAUSED, PowerState.PAUSED),
    virt_event.EVENT_LIFECYCLE_RESUMED: (EventType.LIFECYCLE_RESUMED, PowerState.RUNNING),
    virt_event.EVENT_LIFECYCLE_SUSPENDED: (EventType.LIFECYCLE_SUSPENDED, PowerState.SUSPENDED),
    virt_event.EVENT_LIFECYCLE_CRASHED: (EventType.LIFECYCLE_CRASHED, PowerState.CRASHED),
    virt_event.EVENT_LIFECYCLE_POSTCOPY_STARTED: (EventType.LIFECYCLE_POSTCOPY_STARTED, PowerState.PAUSED),
    virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED: (
        EventType.LIFECYCLE_MIGRATION_COMPLETED,
        PowerState.NOSTATE,
    ),
}
"""What each transition is called in an event, and the power state that it leads to."""

LAST_WORDS_S = 5.0
ENDS = frozenset({EventType.LIFECYCLE_STOPPED, EventType.LIFECYCLE_CRASHED})


def note(
    tx: Transaction,
    uuid: str,
    kind: EventType,
    power_state: PowerState,
    cause: Cause,
    operation_id: str | None,
    data: dict[str, Any],
    *,
    owned: bool,
    request_id: str | None = None,
) -> InstanceRecord | None:
    """Take down that an instance now has ``power_state``, and tell it.

    :param owned: a verb works on the instance, so its state is not touched
    :return: the record as it is now; None if there is none
    """
    found = instances.find(tx, uuid)
    if found is None or found.gone:
        return None
    state = found.state if owned else follow(found.state, power_state)
    now = msgspec.structs.replace(found, power_state=power_state, state=state)
    now = instances.put(tx, now) if now != found else now
    outbox.append(
        tx,
        kind,
        instance=now,
        operation_id=operation_id,
        request_id=request_id,
        cause=cause,
        data={"power_state": power_state.value, **data},
    )
    if now.state != found.state:
        telling.tell_record(tx, EventType.INSTANCE_UPDATED, now)
    return now


def last_words(manager: Manager, uuid: str) -> dict[str, str]:
    """Return the tails of a guest's logs, as evidence; what can't be read is said instead."""
    found = manager.store.read(lambda tx: instances.find(tx, uuid))
    if found is None:
        return {}
    try:
        with steps.working(steps.Work(verb="last words", deadline=time.monotonic() + LAST_WORDS_S)):
            return dict(manager.driver.get_last_words(found.instance))
    except errors.ComputeError as error:
        return {"error": error.message}
    except Exception as error:  # whatever it is, the event is told
        LOG.warning("the last words of %s can't be had: %r", uuid, error)
        return {"error": type(error).__name__}


# --- differences found ---------------------------------------------------------------------------------

KINDS = {
    PowerState.RUNNING: EventType.LIFECYCLE_STARTED,
    PowerState.PAUSED: EventType.LIFECYCLE_PAUSED,
    PowerState.SUSPENDED: EventType.LIFECYCLE_SUSPENDED,
    PowerState.SHUTDOWN: EventType.LIFECYCLE_STOPPED,
    PowerState.CRASHED: EventType.LIFECYCLE_CRASHED,
}
"""What is told when a guest is found in a power state that it was not in."""

RESUMES = frozenset({PowerState.PAUSED, PowerState.SUSPENDED})
OFF = frozenset({PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE})


def differs(record: InstanceRecord, seen: PowerState) -> bool:
    """Return whether ``seen`` is news; off is off, however it came about."""
    both_off = {record.power_state, seen} <= OFF
    return seen not in (record.power_state, PowerState.NOSTATE) and not both_off


def is_given(manager: Manager, uuid: str) -> bool:
    """Return whether it is decided that a guest which ran here is another host's.

    Then the end of what is left here is the end of its migration, whatever it looks like: libvirt calls it a
    crash if it was killed itself while it ended QEMU.
    """
    known = manager.store.read(lambda tx: handshakes.of_instance(tx, uuid))
    if known is None or known.settled or known.kind not in (Kind.PRECOPY, Kind.POSTCOPY):
        return False
    return known.phase is Phase.GIVEN


def _has_left(manager: Manager, record: InstanceRecord) -> bool:
    """Return whether a guest is off because it went to another host while it ran."""
    if record.moved_to is not None or is_given(manager, record.uuid):
        return True
    known = manager.store.read(lambda tx: handshakes.of_instance(tx, record.uuid))
    if record.state is not InstanceState.MIGRATING or known is None or known.kind is Kind.COLD:
        return False
    with contextlib.suppress(errors.ComputeError, concurrency.TimedOut):
        return manager.driver.see_migration(record.instance, True) is Fact.MOVED
    return False


def note_difference(
    manager: Manager,
    record: InstanceRecord,
    seen: PowerState,
    cause: Cause,
    entry: Entry | None = None,
    *,
    owned: bool,
    if_still: Callable[[Transaction], bool] = lambda tx: True,
) -> None:
    """Take down a power state that was found, not reported: the hypervisor keeps no history.

    :param entry: the operation that made it so, if one did
    :param if_still: whether what was found is still news, asked in the transaction
    """
    kind = KINDS[seen]
    if kind is EventType.LIFECYCLE_STARTED and record.power_state in RESUMES:
        kind = EventType.LIFECYCLE_RESUMED
    if kind in ENDS and _has_left(manager, record):
        kind, seen = TRANSITIONS[virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED]
    detail = f"was {record.power_state.name} on record"
    data: dict[str, Any] = {"detail": detail, "observed": "reconciled"}
    if kind in ENDS and entry is None:
        data["last_words"] = last_words(manager, record.uuid)

    operation_id, request_id = (entry.operation_id, entry.request_id) if entry else (None, None)

    def write(tx: Transaction) -> None:
        if if_still(tx):
            note(tx, record.uuid, kind, seen, cause, operation_id, data, owned=owned, request_id=request_id)

    manager.store.insist(write)

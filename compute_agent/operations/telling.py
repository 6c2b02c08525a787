# SPDX-License-Identifier: Apache-2.0
"""The events of an operation, and its record's turns: begun, ended."""

from typing import Any

import msgspec

from compute_agent.model import clock, errors
from compute_agent.model.event import Cause, EventType
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Operation, OperationState, Origin
from compute_agent.model.secrets import redacted
from compute_agent.store import instances, outbox
from compute_agent.store.database import Transaction

_CAUSES = {Origin.CALLER: Cause.OPERATION, Origin.PEER: Cause.OPERATION, Origin.AGENT: Cause.HOST}

_ENDS = {
    OperationState.SUCCEEDED: EventType.OPERATION_SUCCEEDED,
    OperationState.FAILED: EventType.OPERATION_FAILED,
    OperationState.CANCELLED: EventType.OPERATION_CANCELLED,
}


def ended(operation: Operation, error: errors.ComputeError | None, **changes: Any) -> Operation:
    """Return ``operation`` ended: cancelled, failed, or succeeded when there is no error."""
    if error is None:
        state = OperationState.SUCCEEDED
    elif isinstance(error, errors.Cancelled):
        state = OperationState.CANCELLED
    else:
        state = OperationState.FAILED
    return msgspec.structs.replace(
        operation,
        state=state,
        finished_at=clock.timestamp(),
        error=error.to_error() if error else None,
        **changes,
    )


def tell(tx: Transaction, kind: EventType, operation: Operation, **more: Any) -> None:
    """Write an event about ``operation``; its record is the event's data."""
    uuid = operation.instance_uuid
    outbox.append(
        tx,
        kind,
        instance=instances.find(tx, uuid) if uuid else None,
        instance_uuid=uuid,
        operation_id=operation.operation_id,
        request_id=operation.context.get("request_id"),
        cause=_CAUSES[operation.origin],
        data=msgspec.to_builtins(operation) | more,
    )


def tell_end(tx: Transaction, operation: Operation, *, repeated: bool = False) -> None:
    """Tell how ``operation`` ended. Told again on a repeated request, it says so (``repeated``)."""
    tell(tx, _ENDS[operation.state], operation, **({"repeated": True} if repeated else {}))


def tell_record(
    tx: Transaction, kind: EventType, record: InstanceRecord, operation: Operation | None = None
) -> None:
    """Tell that an instance's record changed or went, and which operation did it."""
    outbox.append(
        tx,
        kind,
        instance=record,
        operation_id=operation.operation_id if operation else None,
        request_id=operation.context.get("request_id") if operation else None,
        cause=_CAUSES[operation.origin] if operation else Cause.UNKNOWN,
        data={"instance": redacted(record)},
    )

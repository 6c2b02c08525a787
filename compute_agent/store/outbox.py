# SPDX-License-Identifier: Apache-2.0
"""The outbox: events in the order in which they happened, until they were sent, and after.

An event is written in the transaction that changes what it tells of. ``seq`` comes from the
table and is part of the same transaction, so it has no gaps. What was sent is one number,
since events are sent in order.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from compute_agent.model import clock
from compute_agent.model.event import Cause, Event, EventType
from compute_agent.model.instance import InstanceRecord
from compute_agent.store import host, records
from compute_agent.store.database import Transaction

SENT = "sent_seq"
AGED = "aged_seq"


def append(
    tx: Transaction,
    kind: EventType,
    *,
    instance: InstanceRecord | None = None,
    instance_uuid: str | None = None,
    operation_id: str | None = None,
    request_id: str | None = None,
    cause: Cause = Cause.UNKNOWN,
    data: dict[str, Any] | None = None,
) -> int:
    """Write an event and return its ``seq``."""
    event = Event(
        host=tx.identity.host,
        host_id=tx.identity.host_id,
        epoch=tx.identity.epoch,
        seq=None,
        occurred_at=clock.timestamp(),
        type=kind,
        instance_uuid=instance.uuid if instance else instance_uuid,
        generation=instance.generation if instance else None,
        revision=instance.revision if instance else None,
        operation_id=operation_id,
        request_id=request_id,
        cause=cause,
        data=data or {},
    )
    cursor = tx.execute(
        "INSERT INTO events (type, instance_uuid, occurred_at, body) VALUES (?, ?, ?, ?)",
        kind.value,
        event.instance_uuid,
        event.occurred_at,
        msgspec.json.encode(event),
    )
    assert cursor.lastrowid is not None
    tx.told.append(msgspec.structs.replace(event, seq=cursor.lastrowid))
    return cursor.lastrowid


def last_seq(tx: Transaction) -> int:
    """Return the ``seq`` of the newest event; 0 if there was none."""
    row = tx.row("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
    return row[0] if row else 0


def sent_seq(tx: Transaction) -> int:
    """Return up to which ``seq`` everything was sent."""
    return int(host.get(tx, SENT) or 0)


def mark_sent(tx: Transaction, seq: int) -> None:
    """Note that everything up to ``seq`` was sent."""
    host.put(tx, SENT, str(seq))


def unsent(tx: Transaction, after: int, limit: int) -> list[Event]:
    """Return the next events after ``after``, oldest first."""
    return _events(tx.rows("SELECT seq, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?", after, limit))


def oldest_kept(tx: Transaction) -> int:
    """Return the first ``seq`` that is still there (the next one, when nothing is)."""
    return int(host.get(tx, AGED) or 0) + 1


def since(
    tx: Transaction, seq: int, *, types: Sequence[str] | None, instance_uuid: str | None, limit: int
) -> list[Event]:
    """Return events after ``seq``, oldest first, of ``types`` and of an instance if given."""
    where, values = ["seq > ?"], [seq]
    if types:
        where.append(f"type IN ({', '.join('?' * len(types))})")
        values.extend(types)  # type: ignore[arg-type]
    if instance_uuid:
        where.append("instance_uuid = ?")
        values.append(instance_uuid)  # type: ignore[arg-type]
    query = f"SELECT seq, body FROM events WHERE {' AND '.join(where)} ORDER BY seq LIMIT ?"
    return _events(tx.rows(query, *values, limit))


def age_out(tx: Transaction, before: str, keep: int, limit: int = 1000) -> int:
    """Drop sent events that happened before ``before``, or that ``keep`` newer ones follow.

    :param limit: how many at most in this transaction
    :return: how many were dropped
    """
    border = min(sent_seq(tx), oldest_kept(tx) - 1 + limit)
    row = tx.row(
        "SELECT max(seq) FROM events WHERE seq <= ? AND (occurred_at < ? OR seq <= ?)",
        border,
        before,
        last_seq(tx) - keep,
    )
    if row[0] is None:
        return 0
    dropped = tx.execute("DELETE FROM events WHERE seq <= ?", row[0]).rowcount
    host.put(tx, AGED, str(row[0]))
    return dropped


def _events(rows: list[Any]) -> list[Event]:
    return [msgspec.structs.replace(records.event(body), seq=seq) for seq, body in rows]

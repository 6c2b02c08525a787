# SPDX-License-Identifier: Apache-2.0
"""The journal: every operation that was accepted, in order, until and after its end.

An operation's id outlives its record, so that a message that comes again weeks later is
still known. Arguments, which may hold secrets, leave the journal when the operation ends.
"""

import dataclasses
from typing import Any

import msgspec

from compute_agent.model import clock
from compute_agent.model.operation import Operation
from compute_agent.store import records
from compute_agent.store.database import Transaction

_decode = records.decoder(Operation)


@dataclasses.dataclass(frozen=True)
class SeenId:
    """What is remembered of an operation id."""

    digest: bytes | None
    unique_id: str | None
    cancelled: bool


def seen(tx: Transaction, operation_id: str) -> SeenId | None:
    """Return what is remembered of an id; None if it never came, or too long ago."""
    row = tx.row(
        "SELECT digest, unique_id, cancelled FROM operation_ids WHERE operation_id = ?", operation_id
    )
    return SeenId(row[0], row[1], bool(row[2])) if row else None


def remember(tx: Transaction, operation_id: str, digest: bytes, unique_id: str | None) -> None:
    """Remember an id with the digest of its arguments and its message."""
    tx.execute(
        "INSERT OR REPLACE INTO operation_ids (operation_id, digest, unique_id, seen_at) VALUES (?, ?, ?, ?)",
        operation_id,
        digest,
        unique_id,
        clock.timestamp(),
    )


def cancel_in_advance(tx: Transaction, operation_id: str) -> bool:
    """Leave a tombstone: when an operation of this id comes, it ends cancelled.

    :return: False if it has come already
    """
    tx.execute(
        "INSERT OR IGNORE INTO operation_ids (operation_id, seen_at, cancelled) VALUES (?, ?, 1)",
        operation_id,
        clock.timestamp(),
    )
    known = seen(tx, operation_id)
    return known is not None and known.digest is None


def append(tx: Transaction, operation: Operation, arguments: dict[str, Any] | None) -> int:
    """Write a new operation; return its position in the journal."""
    cursor = tx.execute(
        "INSERT INTO operations"
        " (operation_id, verb, instance_uuid, state, accepted_at, finished_at, record, arguments)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        operation.operation_id,
        operation.verb,
        operation.instance_uuid,
        operation.state.value,
        operation.accepted_at,
        operation.finished_at,
        msgspec.json.encode(operation),
        None if operation.ended else msgspec.json.encode(arguments),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def update(tx: Transaction, operation: Operation) -> None:
    """Write the operation as it is now. An ended one loses its arguments."""
    tx.execute(
        "UPDATE operations SET state = ?, finished_at = ?, record = ?,"
        " arguments = CASE WHEN ? THEN NULL ELSE arguments END WHERE operation_id = ?",
        operation.state.value,
        operation.finished_at,
        msgspec.json.encode(operation),
        operation.ended,
        operation.operation_id,
    )


def find(tx: Transaction, operation_id: str) -> Operation | None:
    """Return an operation's record, or None."""
    row = tx.row("SELECT record FROM operations WHERE operation_id = ?", operation_id)
    return _decode(row[0]) if row else None


def arguments(tx: Transaction, operation_id: str) -> dict[str, Any]:
    """Return the arguments of an operation that has not ended."""
    row = tx.row("SELECT arguments FROM operations WHERE operation_id = ?", operation_id)
    values: dict[str, Any] = msgspec.json.decode(row[0])
    return values


def live(tx: Transaction, after: str = "") -> list[Operation]:
    """Return all operations that have not ended, in the order in which they came.

    :param after: only those that came after the operation of this id
    """
    rows = tx.rows(
        "SELECT record FROM operations WHERE state IN ('accepted', 'running') AND position >"
        " coalesce((SELECT position FROM operations WHERE operation_id = ?), 0) ORDER BY position",
        after,
    )
    return [_decode(row[0]) for row in rows]


def worked_on(tx: Transaction, instance_uuid: str) -> bool:
    """Return whether an operation on an instance has begun and not ended."""
    query = "SELECT 1 FROM operations WHERE instance_uuid = ? AND state = 'running' LIMIT 1"
    return tx.row(query, instance_uuid) is not None


def busy(tx: Transaction, instance_uuid: str) -> bool:
    """Return whether an operation on an instance has not ended."""
    query = "SELECT 1 FROM operations WHERE instance_uuid = ? AND state IN ('accepted', 'running') LIMIT 1"
    return tx.row(query, instance_uuid) is not None


def under_way(tx: Transaction, instance_uuid: str) -> list[Operation]:
    """Return the operations on an instance that have not ended, in the order in which they came."""
    query = (
        "SELECT record FROM operations WHERE instance_uuid = ? AND state IN ('accepted', 'running')"
        " ORDER BY position"
    )
    return [_decode(row[0]) for row in tx.rows(query, instance_uuid)]


def runs(tx: Transaction, operation_id: str) -> bool:
    """Return whether an operation has begun and not ended."""
    query = "SELECT 1 FROM operations WHERE operation_id = ? AND state = 'running'"
    return tx.row(query, operation_id) is not None


def page(
    tx: Transaction,
    *,
    state: str | None,
    verb: str | None,
    since: str | None,
    instance_uuid: str | None,
    marker: str | None,
    limit: int,
) -> list[Operation]:
    """Return operations, newest first, that come before ``marker`` (an operation id)."""
    where, values = ["1"], list[Any]()
    for condition, value in (
        ("state = ?", state),
        ("verb = ?", verb),
        ("accepted_at >= ?", since),
        ("instance_uuid = ?", instance_uuid),
        ("position < (SELECT position FROM operations WHERE operation_id = ?)", marker),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    query = f"SELECT record FROM operations WHERE {' AND '.join(where)} ORDER BY position DESC LIMIT ?"
    return [_decode(row[0]) for row in tx.rows(query, *values, limit)]


def age_out(tx: Transaction, records_before: str, ids_before: str, limit: int = 1000) -> int:
    """Drop records that ended, and ids that came, before the given times; return how many records."""
    dropped = tx.execute(
        "DELETE FROM operations WHERE position IN"
        " (SELECT position FROM operations WHERE finished_at < ? ORDER BY finished_at LIMIT ?)",
        records_before,
        limit,
    ).rowcount
    tx.execute(
        "DELETE FROM operation_ids"
        " WHERE seen_at < ? AND operation_id NOT IN (SELECT operation_id FROM operations)",
        ids_before,
    )
    return dropped

# SPDX-License-Identifier: Apache-2.0
"""The records of instances. Every change raises the record's revision."""

from collections.abc import Sequence
from typing import Any

import msgspec

from compute_agent.model import clock, errors
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.states import InstanceState
from compute_agent.store import host, records
from compute_agent.store.database import Transaction

_decode = records.decoder(InstanceRecord)


def find(tx: Transaction, uuid: str) -> InstanceRecord | None:
    """Return the record of ``uuid``, which may be a tombstone, or None."""
    row = tx.row("SELECT record FROM instances WHERE uuid = ?", uuid)
    return _decode(row[0]) if row else None


def get(tx: Transaction, uuid: str) -> InstanceRecord:
    """Return the record of an instance that is here.

    :raises WrongHost: if it has moved, with where to
    :raises InstanceNotFound: if it is not on record, or gone
    """
    record = find(tx, uuid)
    if record is not None and record.gone and record.moved_to:
        raise errors.WrongHost(
            f"instance {uuid} has moved to {record.moved_to}", hint=f"ask {record.moved_to}"
        )
    if record is None or record.gone:
        raise errors.InstanceNotFound(f"no instance {uuid} on record")
    return record


def put(tx: Transaction, record: InstanceRecord) -> InstanceRecord:
    """Write ``record`` with the next revision and the time, and return it as written.

    :raises InstanceExists: if another instance has its name
    """
    previous = tx.row("SELECT record FROM instances WHERE uuid = ?", record.uuid)
    revision = (_decode(previous[0]).revision if previous else record.revision) + 1
    now = clock.timestamp()
    record = msgspec.structs.replace(
        record, revision=revision, created_at=record.created_at or now, updated_at=now
    )
    refuse_taken_name(tx, record)
    tx.execute(
        "INSERT OR REPLACE INTO instances (uuid, name, state, updated_at, record) VALUES (?, ?, ?, ?, ?)",
        record.uuid,
        record.instance.name,
        record.state.value,
        now,
        msgspec.json.encode(record),
    )
    return record


def refuse_taken_name(tx: Transaction, record: InstanceRecord) -> None:
    """Say if another instance has the name of ``record``.

    :raises InstanceExists: if so
    """
    other = tx.row(
        "SELECT uuid FROM instances WHERE name = ? AND uuid != ? AND state != 'gone'",
        record.instance.name,
        record.uuid,
    )
    if other and not record.gone:
        raise errors.InstanceExists(f"instance {other[0]} has the name {record.instance.name}")


def remove(tx: Transaction, uuid: str) -> None:
    """Strike a record without a tombstone: for what never came to be."""
    tx.execute("DELETE FROM instances WHERE uuid = ?", uuid)


def keep_tombstone(tx: Transaction, record: InstanceRecord) -> None:
    """Put a tombstone aside while an instance of the same uuid is made."""
    host.put(tx, f"tombstone {record.uuid}", msgspec.json.encode(record).decode())


def take_tombstone(tx: Transaction, uuid: str) -> InstanceRecord | None:
    """Return the tombstone that was put aside, and keep it no longer; None if there was none."""
    key = f"tombstone {uuid}"
    kept = host.get(tx, key)
    if kept is None:
        return None
    host.drop(tx, key)
    return _decode(kept)


def every(tx: Transaction) -> list[InstanceRecord]:
    """Return all records but tombstones."""
    return [
        _decode(row[0]) for row in tx.rows("SELECT record FROM instances WHERE state != 'gone' ORDER BY uuid")
    ]


def page(
    tx: Transaction, *, state: str | None, managed: bool | None, marker: str | None, limit: int
) -> Sequence[InstanceRecord]:
    """Return up to ``limit`` records after ``marker`` (a uuid), in the order of their uuids."""
    where: list[str] = ["uuid > ?"]
    values: list[Any] = [marker or ""]
    if state is not None:
        where.append("state = ?")
        values.append(state)
    else:
        where.append("state != 'gone'")
    rows = tx.execute(f"SELECT record FROM instances WHERE {' AND '.join(where)} ORDER BY uuid", *values)
    found: list[InstanceRecord] = []
    for (body,) in rows:
        record = _decode(body)
        if managed is None or record.managed == managed:
            found.append(record)
        if len(found) == limit:
            break
    return found


def counts(tx: Transaction) -> dict[str, int]:
    """Return how many instances are in each state, tombstones left out."""
    return dict(tx.rows("SELECT state, count(*) FROM instances WHERE state != 'gone' GROUP BY state"))


def forget_tombstones(tx: Transaction, before: str) -> int:
    """Drop tombstones that were set before ``before``; return how many."""
    gone = InstanceState.GONE.value
    return tx.execute("DELETE FROM instances WHERE state = ? AND updated_at < ?", gone, before).rowcount

# SPDX-License-Identifier: Apache-2.0
"""The handshakes of migrations: the phase of this end, durable before what the phase is about is done."""

from typing import Any

import msgspec

from compute_agent.model import clock, errors
from compute_agent.model.clock import Timestamp
from compute_agent.model.handshake import Kind, Phase
from compute_agent.model.instance import Instance
from compute_agent.store import records
from compute_agent.store.database import Transaction


class HandshakeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a migration.

    ``migration_id`` is that of the operation at the source. ``runs``: the guest ran before. ``data``: what
    the drivers of both ends agreed on. ``instance`` (at the source as the destination is to have it) leaves
    the record when it is settled, with its secrets. ``error``: why the guest stays at the source.
    """

    migration_id: str
    instance_uuid: str
    kind: Kind
    phase: Phase
    settled: bool = False
    source: str
    destination: str
    runs: bool = True
    instance: Instance | None = None
    request: dict[str, Any] = {}
    data: dict[str, Any] = {}
    error: errors.Error | None = None
    updated_at: Timestamp = ""


_decode = records.decoder(HandshakeRecord)


def find(tx: Transaction, migration_id: str) -> HandshakeRecord | None:
    """Return a handshake, or None."""
    row = tx.row("SELECT record FROM handshakes WHERE migration_id = ?", migration_id)
    return _decode(row[0]) if row else None


def put(tx: Transaction, record: HandshakeRecord) -> HandshakeRecord:
    """Write a handshake, and return it as written."""
    now = clock.timestamp()
    instance = None if record.settled else record.instance
    record = msgspec.structs.replace(record, updated_at=now, instance=instance)
    tx.execute(
        "INSERT OR REPLACE INTO handshakes (migration_id, instance_uuid, settled, updated_at, record)"
        " VALUES (?, ?, ?, ?, ?)",
        record.migration_id,
        record.instance_uuid,
        int(record.settled),
        now,
        msgspec.json.encode(record),
    )
    return record


def live(tx: Transaction) -> list[HandshakeRecord]:
    """Return those at which something is left to do here."""
    return [_decode(row[0]) for row in tx.rows("SELECT record FROM handshakes WHERE settled = 0")]


def of_instance(tx: Transaction, uuid: str) -> HandshakeRecord | None:
    """Return the newest handshake about an instance, or None."""
    row = tx.row(
        "SELECT record FROM handshakes WHERE instance_uuid = ? ORDER BY updated_at DESC LIMIT 1", uuid
    )
    return _decode(row[0]) if row else None


def age_out(tx: Transaction, before: str) -> int:
    """Strike settled ones that were last changed before ``before``; return how many."""
    return tx.execute("DELETE FROM handshakes WHERE settled = 1 AND updated_at < ?", before).rowcount

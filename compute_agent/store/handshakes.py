# SPDX-License-Identifier: Apache-2.0
"""The handshakes of migrations: the phase of this end, durable before what the phase is about is done.

A release of schema 2 may work on the file, and knows neither of taking back nor of confirming. So these are
written in words that it has, with a field beside them that it leaves alone (:func:`_as_written`).
"""

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

    Of a cold migration only. ``before``: the instance as it was at the source. ``holds``: settled or not,
    what was set aside is there until the migration is confirmed or reverted, and so long the record stays as
    it is. ``reverts``: the migration that this one takes back. ``begun``: the guest may have been touched.
    ``attempt``: of the source, for which the destination has got ready. ``for_good``: only as written.
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
    before: Instance | None = None
    holds: bool = False
    reverts: str | None = None
    begun: bool = False
    attempt: str = ""
    for_good: bool = False
    request: dict[str, Any] = {}
    data: dict[str, Any] = {}
    error: errors.Error | None = None
    updated_at: Timestamp = ""


_decoded = records.decoder(HandshakeRecord)

BEFORE_IT_IS_FOR_GOOD = {Phase.CONFIRMED: Phase.OWNER, Phase.DISCARDING: Phase.GIVEN}
FOR_GOOD = {before: phase for phase, before in BEFORE_IT_IS_FOR_GOOD.items()}


def _as_written(record: HandshakeRecord) -> HandshakeRecord:
    kind = Kind.COLD if record.kind is Kind.REVERT else record.kind
    phase = BEFORE_IT_IS_FOR_GOOD.get(record.phase, record.phase)
    return msgspec.structs.replace(record, kind=kind, phase=phase, for_good=phase is not record.phase)


def _decode(text: bytes) -> HandshakeRecord:
    record = _decoded(text)
    kind = Kind.REVERT if record.reverts is not None else record.kind
    phase = FOR_GOOD[record.phase] if record.for_good else record.phase
    return msgspec.structs.replace(record, kind=kind, phase=phase, for_good=False)


def find(tx: Transaction, migration_id: str) -> HandshakeRecord | None:
    """Return a handshake, or None."""
    row = tx.row("SELECT record FROM handshakes WHERE migration_id = ?", migration_id)
    return _decode(row[0]) if row else None


def put(tx: Transaction, record: HandshakeRecord) -> HandshakeRecord:
    """Write a handshake, and return it as written."""
    now = clock.timestamp()
    if record.settled and not record.holds:
        record = msgspec.structs.replace(record, instance=None, before=None)
    record = msgspec.structs.replace(record, updated_at=now)
    tx.execute(
        "INSERT OR REPLACE INTO handshakes (migration_id, instance_uuid, settled, updated_at, record)"
        " VALUES (?, ?, ?, ?, ?)",
        record.migration_id,
        record.instance_uuid,
        int(record.settled),
        now,
        msgspec.json.encode(_as_written(record)),
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


def of_cold(tx: Transaction, uuid: str) -> list[HandshakeRecord]:
    """Return the cold migrations of an instance: the one that can be reverted first, then the newest."""
    rows = tx.rows("SELECT record FROM handshakes WHERE instance_uuid = ? ORDER BY updated_at DESC", uuid)
    found = [record for record in (_decode(row[0]) for row in rows) if record.kind is Kind.COLD]
    return sorted(found, key=lambda record: not record.holds)


def held(tx: Transaction, uuid: str) -> HandshakeRecord | None:
    """Return the migration of an instance that can be confirmed or reverted; None if there is none."""
    return next((record for record in of_cold(tx, uuid) if record.holds), None)


def holding(tx: Transaction) -> list[HandshakeRecord]:
    """Return all that can be confirmed or reverted, at this end or the other."""
    rows = tx.rows("SELECT record FROM handshakes")
    return [record for record in (_decode(row[0]) for row in rows) if record.holds]


def release(tx: Transaction, migration_id: str) -> None:
    """Write that a migration was reverted: nothing of it is set aside any more."""
    record = find(tx, migration_id)
    if record is not None and record.holds:
        put(tx, msgspec.structs.replace(record, holds=False))


def age_out(tx: Transaction, before: str) -> int:
    """Strike settled ones that were last changed before ``before``; return how many."""
    rows = tx.rows("SELECT record FROM handshakes WHERE settled = 1 AND updated_at < ?", before)
    old = [record for record in (_decode(row[0]) for row in rows) if not record.holds]
    for record in old:
        tx.execute("DELETE FROM handshakes WHERE migration_id = ?", record.migration_id)
    return len(old)

# SPDX-License-Identifier: Apache-2.0
"""What an older copy of the state file is still good for.

It shows a past in which operations and migrations live that have long ended, events are unsent that everybody
has, and instances are here that have gone. Nothing of that may be acted on. What stays true stays: ids that
were seen, operations that had ended, tombstones with their generations, and that an operator keeps new guests
away. See docs/decisions/017.
"""

import msgspec

from compute_agent.model import clock, errors, secrets
from compute_agent.model.operation import Operation, OperationState
from compute_agent.store import handshakes, host, instances, journal
from compute_agent.store.database import Transaction

COPIED = "copied_at"
"""Stands in a copy that was made to be kept: when that was."""

NOT_RECOVERED = [
    "what was asked after the copy was made",
    "operations and migrations that had not ended in it",
    "events of earlier epochs",
    "security group rules",
    "the host's flags but an operator's reason against new guests",
]
KEPT = ("host", "host_id", "digest_key", "contract")
"""What is kept of ``meta``. The epoch is not: a new one begins."""


def settle(tx: Transaction) -> None:
    """End what lives in a copy, so that nobody who opens it does it again."""
    for operation in journal.live(tx):
        _end(tx, operation)
    tx.execute("DELETE FROM handshakes WHERE settled = 0")
    for (key,) in tx.rows("SELECT key FROM meta WHERE key LIKE 'tombstone %'"):
        uuid = key.removeprefix("tombstone ")
        tombstone = instances.take_tombstone(tx, uuid)
        if tombstone is not None:
            instances.put(tx, tombstone)


def brand(tx: Transaction) -> None:
    """Make a copy one that is known as such for ever, settle it, and take the secrets out of it."""
    host.put(tx, COPIED, clock.timestamp())
    settle(tx)
    for record in instances.every(tx):
        instances.put(tx, msgspec.structs.replace(record, instance=secrets.without(record.instance)))
    for held in handshakes.holding(tx):
        handshakes.put(tx, _without_secrets(held))


def _without_secrets(held: handshakes.HandshakeRecord) -> handshakes.HandshakeRecord:
    plain = {
        name: secrets.without(found) for name in ("instance", "before") if (found := getattr(held, name))
    }
    return msgspec.structs.replace(held, data={}, request={}, **plain)


def begin_anew(tx: Transaction) -> list[str]:
    """Take from a copy what holds no longer, as a new file has none of it.

    :return: the ids of the operations that had not ended when the copy was made
    """
    copied = host.get(tx, COPIED) or clock.timestamp()
    host.put(tx, COPIED, copied)
    settle(tx)
    ended = tx.rows("SELECT operation_id FROM operations WHERE finished_at = ? ORDER BY position", copied)
    tx.execute("DELETE FROM instances WHERE state != 'gone'")
    tx.execute("DELETE FROM security_groups")
    tx.execute("DELETE FROM reasons WHERE owner != ?", host.OPERATOR)
    tx.execute("DELETE FROM events")
    tx.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    tx.execute(f"DELETE FROM meta WHERE key NOT IN ({', '.join('?' * len(KEPT))})", *KEPT)
    return [row[0] for row in ended]


def _end(tx: Transaction, operation: Operation) -> None:
    error = errors.Interrupted(
        f"the state file is a copy in which {operation.verb} had not ended; it is not done again",
        hint="look at the instance; if it is still wanted, ask for it with a new id",
        evidence=f"it was {operation.state} after {operation.attempts} attempts",
    )
    ended = msgspec.structs.replace(
        operation,
        state=OperationState.FAILED,
        finished_at=host.get(tx, COPIED),
        error=error.to_error(),
    )
    journal.update(tx, ended)

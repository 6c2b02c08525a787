# SPDX-License-Identifier: Apache-2.0
"""What the state file knows of the host: its identity, and the reasons against new guests."""

import secrets
import uuid

from compute_agent.model import clock
from compute_agent.store.database import Identity, Transaction

OPERATOR = "operator"
MAINTENANCE = "maintenance"
"""Owners of reasons that keep new guests out. The agent's own only say that the host is not well."""


def get(tx: Transaction, key: str) -> str | None:
    """Return the value kept under ``key``."""
    row = tx.row("SELECT value FROM meta WHERE key = ?", key)
    return row[0] if row else None


def put(tx: Transaction, key: str, value: str) -> None:
    """Keep ``value`` under ``key``."""
    tx.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", key, value)


def _once(tx: Transaction, key: str, value: str) -> str:
    tx.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", key, value)
    found = get(tx, key)
    assert found is not None
    return found


def identify(tx: Transaction, host: str, host_id: str | None = None) -> Identity:
    """Return whose file this is; a new file becomes ``host``'s, with a new epoch.

    :param host_id: to be used for a new file; made if None
    """
    return Identity(
        host=_once(tx, "host", host),
        host_id=_once(tx, "host_id", host_id or str(uuid.uuid4())),
        epoch=_once(tx, "epoch", new_epoch()),
    )


def digest_key(tx: Transaction) -> bytes:
    """Return the host's key for the digests of arguments."""
    return bytes.fromhex(_once(tx, "digest_key", secrets.token_hex(32)))


def new_epoch() -> str:
    """Return a UUIDv7 (RFC 9562): its first 48 bits are the time in ms, so epochs sort by age."""
    value = int(clock.unix() * 1000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def reasons(tx: Transaction) -> dict[str, str]:
    """Return the reasons against new guests by their owner; enabled means there is none."""
    return dict(tx.rows("SELECT owner, reason FROM reasons ORDER BY owner"))


def object_to_guests(tx: Transaction, owner: str, reason: str) -> bool:
    """Keep ``owner``'s reason against new guests; return whether it is new."""
    changed = reasons(tx).get(owner) != reason
    if changed:
        tx.execute(
            "INSERT OR REPLACE INTO reasons (owner, reason, since) VALUES (?, ?, ?)",
            owner,
            reason,
            clock.timestamp(),
        )
    return changed


def lift_objection(tx: Transaction, owner: str) -> bool:
    """Strike ``owner``'s reason; return whether there was one."""
    return tx.execute("DELETE FROM reasons WHERE owner = ?", owner).rowcount > 0


def drop(tx: Transaction, key: str) -> None:
    """Keep nothing under ``key`` any more."""
    tx.execute("DELETE FROM meta WHERE key = ?", key)

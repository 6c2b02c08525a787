# SPDX-License-Identifier: Apache-2.0
"""Security groups as the scheduler last told them: their rules, and their members on all hosts."""

from typing import Any

import msgspec

from compute_agent.store.database import Transaction

PROVIDER = "provider"
"""The id under which the provider's rules are kept."""


def put_rules(tx: Transaction, group_id: str, rules: list[dict[str, Any]]) -> None:
    """Keep a group's rules."""
    _put(tx, group_id, "rules", rules)


def put_members(tx: Transaction, group_id: str, members: list[dict[str, Any]]) -> None:
    """Keep a group's members."""
    _put(tx, group_id, "members", members)


def rules(tx: Transaction, group_id: str) -> list[dict[str, Any]]:
    """Return a group's rules; none if it was never told."""
    return _get(tx, group_id, "rules")


def members(tx: Transaction, group_id: str) -> list[dict[str, Any]]:
    """Return a group's members; none if they were never told."""
    return _get(tx, group_id, "members")


def _put(tx: Transaction, group_id: str, column: str, value: Any) -> None:
    tx.execute("INSERT OR IGNORE INTO security_groups (id) VALUES (?)", group_id)
    tx.execute(f"UPDATE security_groups SET {column} = ? WHERE id = ?", msgspec.json.encode(value), group_id)


def _get(tx: Transaction, group_id: str, column: str) -> list[dict[str, Any]]:
    row = tx.row(f"SELECT {column} FROM security_groups WHERE id = ?", group_id)
    return msgspec.json.decode(row[0]) if row and row[0] else []

# SPDX-License-Identifier: Apache-2.0
"""Security groups as the scheduler last told them: their rules, and their members on all hosts."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from compute_agent.model import errors
from compute_agent.model.security_group import PROVIDER, GroupMember, ProviderRule, SecurityGroupRule
from compute_agent.store.database import Transaction

T = TypeVar("T")


def put_rules(tx: Transaction, group_id: str, rules: Sequence[SecurityGroupRule]) -> None:
    """Keep a group's rules."""
    _put(tx, group_id, "rules", rules)


def put_members(tx: Transaction, group_id: str, members: Sequence[GroupMember]) -> None:
    """Keep a group's members."""
    _put(tx, group_id, "members", members)


def rules(tx: Transaction, group_id: str) -> Sequence[SecurityGroupRule]:
    """Return a group's rules; none if it was never told.

    :raises InvalidState: if what is on record is none, as an earlier release may have taken it
    """
    return _get(tx, group_id, "rules", ProviderRule if group_id == PROVIDER else SecurityGroupRule)


def members(tx: Transaction, group_id: str) -> Sequence[GroupMember]:
    """Return a group's members; none if they were never told. Raises as :func:`rules`."""
    return _get(tx, group_id, "members", GroupMember)


def _put(tx: Transaction, group_id: str, column: str, value: object) -> None:
    tx.execute("INSERT OR IGNORE INTO security_groups (id) VALUES (?)", group_id)
    tx.execute(f"UPDATE security_groups SET {column} = ? WHERE id = ?", msgspec.json.encode(value), group_id)


def _get(tx: Transaction, group_id: str, column: str, kind: type[T]) -> list[T]:
    row = tx.row(f"SELECT {column} FROM security_groups WHERE id = ?", group_id)
    if not row or not row[0]:
        return []
    try:
        return msgspec.json.decode(row[0], type=list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise errors.InvalidState(
            f"the {column} of security group {group_id} on record can't be read: {error}",
            hint=f"tell them again (refresh_security_group_{column})",
        ) from None

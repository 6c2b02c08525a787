# SPDX-License-Identifier: Apache-2.0
"""Soft-deleted instances are destroyed when their time is over: ``reclaim_instance_interval``."""

from typing import ClassVar

from compute_agent.manager import overdue
from compute_agent.manager.overdue import Counted, Kept, Overdue
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.states import InstanceState, PowerState
from compute_agent.store.database import Transaction

UP = frozenset({PowerState.RUNNING, PowerState.PAUSED})
KEY = "soft_deleted"
"""Under which it is kept what was counted."""


def begin(tx: Transaction, uuid: str) -> None:
    """Count from now on: the instance is being soft-deleted."""
    overdue.write(tx, KEY, kept(tx) | {uuid: Counted.from_now_on()})


def end(tx: Transaction, uuid: str) -> None:
    """Count no more: the instance is being restored."""
    overdue.write(tx, KEY, {other: found for other, found in kept(tx).items() if other != uuid})


def kept(tx: Transaction) -> Kept:
    """Return what was written down."""
    return overdue.kept(tx, KEY)


class Reclaimer(Overdue):
    """Destroys soft-deleted instances whose time is over."""

    state: ClassVar[InstanceState] = InstanceState.SOFT_DELETED
    verb: ClassVar[str] = "destroy"
    option: ClassVar[str] = "reclaim_instance_interval"
    key: ClassVar[str] = KEY

    def objection(self, record: InstanceRecord) -> str | None:
        """One that is up is not destroyed."""
        return "it is up" if record.power_state in UP else None

# SPDX-License-Identifier: Apache-2.0
"""What has become of each guest of a drain, read from the journal and the instances' records.

Nothing of it is kept anywhere else, so a drain goes on after a crash as if there had been none. A guest's
migrations have ids that follow from the word by which its host was named: none is ever asked for twice.
"""

import dataclasses
import enum
import json
import uuid as uuids
from typing import Any

import msgspec

from compute_agent.manager.host import AWAITING
from compute_agent.model import errors
from compute_agent.model.arguments import MigrationMode
from compute_agent.model.errors import Error
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Operation, OperationState
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.store import host, instances, journal
from compute_agent.store.database import Transaction
from compute_agent.store.drains import DrainRecord, Word

MAX_ATTEMPTS = 3
"""How often a guest is sent to the same host, if what kept it there may pass."""
NOT_AGAIN = frozenset({"Cancelled", "Timeout"})
"""Codes after which a migration is not tried again by itself, though a caller might."""
MOVES_FROM = frozenset({S.ACTIVE, S.PAUSED, S.STOPPED})
IN_BETWEEN = frozenset({S.BUILDING, S.MIGRATING})
HINTS = {
    S.SUSPENDED: "resume or power_off it, then it can be moved",
    S.RESCUED: "unrescue it, then it can be moved",
    S.RESIZED: "confirm_migration or revert_migration it, then it can be moved",
    S.SOFT_DELETED: "restore it, destroy it, or let it be reclaimed",
    S.ERROR: "reboot HARD, rebuild or destroy it; get_instance tells what is wrong",
}
AWAITS = "it ran before the host booted and waits for confirm_instances: another host may have it by now"


class Standing(enum.StrEnum):
    """How far a guest is on its way."""

    MOVED = "moved"
    REMOVED = "removed"
    MOVING = "moving"
    """its migration is under way, or queued"""
    WAITING = "waiting"
    """its turn has not come"""
    ASKED = "asked"
    """no host is named for it"""
    BLOCKED = "blocked"


GONE = frozenset({Standing.MOVED, Standing.REMOVED})


@dataclasses.dataclass(frozen=True)
class Departure:
    """One guest, as it stands.

    :param record: None once nothing of it is on record
    :param attempt: which of the migrations by the present word is next
    :param operation: the newest migration, if there was one
    """

    uuid: str
    standing: Standing
    record: InstanceRecord | None = None
    word: Word | None = None
    attempt: int = 0
    operation: Operation | None = None
    dest: str | None = None
    error: Error | None = None

    @property
    def mode(self) -> MigrationMode:
        """How it can be moved: as long as it has memory, with that."""
        up = self.record is not None and self.record.power_state in (PowerState.RUNNING, PowerState.PAUSED)
        return MigrationMode.LIVE if up else MigrationMode.COLD

    def told(self) -> dict[str, Any]:
        """Return it as a line of the report."""
        name = self.record.instance.name if self.record else None
        line = {
            "instance_uuid": self.uuid,
            "name": name,
            "standing": self.standing.value,
            "dest": self.dest,
            "operation_id": self.operation.operation_id if self.operation else None,
            "error": msgspec.to_builtins(self.error) if self.error else None,
        }
        return {name: value for name, value in line.items() if value is not None}


def child_id(word: Word, uuid: str, attempt: int) -> str:
    """Return the id of a guest's migration by a word."""
    return str(uuids.uuid5(uuids.UUID(word.operation_id), f"migrate {uuid} {attempt}"))


def see(tx: Transaction, drain: DrainRecord) -> list[Departure]:
    """Return all guests of ``drain``, in its order."""
    awaiting = set(json.loads(host.get(tx, AWAITING) or "[]"))
    return [_see(tx, drain, uuid, uuid in awaiting) for uuid in drain.guests]


def _see(tx: Transaction, drain: DrainRecord, uuid: str, awaits: bool) -> Departure:
    record, word = instances.find(tx, uuid), drain.words.get(uuid)
    attempt, last = _attempts(tx, word, uuid) if word else (0, None)
    if record is None or record.gone:
        return _departed(uuid, record, last)
    found = Departure(uuid, Standing.WAITING, record, word, attempt, last, word.dest if word else None)
    if last is not None and not last.ended:
        return dataclasses.replace(found, standing=Standing.MOVING)
    others = journal.under_way(tx, uuid)
    foreign = next((one for one in others if one.verb == "migrate"), None)
    if foreign is not None:
        return dataclasses.replace(found, standing=Standing.MOVING, operation=foreign, dest=None)
    if record.state in IN_BETWEEN:
        return found
    if obstacle := _obstacle(record, awaits):
        return dataclasses.replace(found, standing=Standing.BLOCKED, error=obstacle.to_error())
    return _by_word(found, drain.asks)


def _attempts(tx: Transaction, word: Word, uuid: str) -> tuple[int, Operation | None]:
    """Return the number of the next migration by a word, and the newest that there was."""
    last = None
    for attempt in range(MAX_ATTEMPTS):
        found = journal.find(tx, child_id(word, uuid, attempt))
        if found is None:
            return attempt, last
        last = found
    return MAX_ATTEMPTS, last


def _departed(uuid: str, record: InstanceRecord | None, last: Operation | None) -> Departure:
    moved_to = record.moved_to if record else None
    standing = Standing.MOVED if moved_to else Standing.REMOVED
    return Departure(uuid, standing, record, operation=last, dest=moved_to)


def _obstacle(record: InstanceRecord, awaits: bool) -> errors.ComputeError | None:
    if awaits:
        return errors.InvalidState(AWAITS, hint="confirm_instances, or destroy what is left of it here")
    if record.state not in MOVES_FROM:
        return errors.InvalidState(
            f"an instance that is {record.state} can't be moved", hint=HINTS.get(record.state)
        )
    return None


def _by_word(found: Departure, asks: bool) -> Departure:
    """A guest that could go: by the word about it, and how the migrations by that have ended."""
    last = found.operation
    if found.word is None:
        return dataclasses.replace(found, standing=Standing.ASKED)
    if last is None or (last.state is OperationState.SUCCEEDED and found.attempt < MAX_ATTEMPTS):
        return found  # never sent by this word; or sent, and back again
    if last.error is not None and _may_pass(last.error) and found.attempt < MAX_ATTEMPTS:
        standing = Standing.WAITING
    else:
        standing = Standing.ASKED if asks and last.state is OperationState.FAILED else Standing.BLOCKED
    return dataclasses.replace(found, standing=standing, error=last.error)


def _may_pass(error: Error) -> bool:
    """Whether what kept a guest here may be over soon; its state may have changed under the migration."""
    return error.code == "InvalidState" or (error.retryable and error.code not in NOT_AGAIN)

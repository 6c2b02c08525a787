# SPDX-License-Identifier: Apache-2.0
"""What a drain makes of a guest, from what is on record of it."""

import json
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.manager import departures
from compute_agent.manager.departures import MAX_ATTEMPTS, Departure, Standing, child_id
from compute_agent.manager.host import AWAITING
from compute_agent.model import clock, errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.operation import Operation, OperationState
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.store import host, instances, journal
from compute_agent.store.database import Store, Transaction
from compute_agent.store.drains import DrainRecord, Word

GUEST = "11111111-1111-4111-8111-111111111111"
DRAIN = "22222222-2222-4222-8222-222222222222"
WORD = Word(dest="node-2", operation_id=DRAIN)
REFUSED = errors.MigrationRefused("no room")
BUSY = errors.HostBusy("too many")


class Records:
    """A state file with one guest on record, and a drain that is about it."""

    def __init__(self, path: Path) -> None:
        self.store = Store(str(path))
        self.store.identity = self.store.write(lambda tx: host.identify(tx, "node-1"))

    def guest(self, state: S = S.ACTIVE, power: PowerState = PowerState.RUNNING, **more: Any) -> None:
        made = Instance(uuid=GUEST, name="a", flavor=Flavor(vcpus=1, memory_mb=64))
        record = InstanceRecord(uuid=GUEST, instance=made, state=state, power_state=power, **more)
        self.store.write(lambda tx: instances.put(tx, record))

    def migration(
        self, operation_id: str, state: OperationState, error: errors.ComputeError | None = None
    ) -> None:
        made = Operation(
            operation_id=operation_id,
            verb="migrate",
            state=state,
            host="node-1",
            host_id="x",
            instance_uuid=GUEST,
            accepted_at=clock.timestamp(),
            error=error.to_error() if error else None,
        )
        self.store.write(lambda tx: journal.append(tx, made, {}))

    def failed(self, attempt: int, error: errors.ComputeError) -> None:
        self.migration(child_id(WORD, GUEST, attempt), OperationState.FAILED, error)

    def see(self, *, word: Word | None = WORD, asks: bool = False) -> Departure:
        words = {GUEST: word} if word else {}
        drain = DrainRecord(operation_id=DRAIN, guests=[GUEST], words=words, asks=asks)
        (found,) = self.store.read(lambda tx: departures.see(tx, drain))
        return found


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(tmp_path / "state.sqlite")
    yield made
    made.store.close()


def test_a_guest_without_a_word_is_asked_for_and_one_with_it_waits_for_its_turn(records: Records) -> None:
    records.guest()
    assert records.see(word=None).standing is Standing.ASKED
    found = records.see()
    assert (found.standing, found.attempt, found.mode) == (Standing.WAITING, 0, "live")


@pytest.mark.parametrize("state", [OperationState.ACCEPTED, OperationState.RUNNING])
def test_whose_migration_lives_is_on_its_way_whoever_asked_for_it(
    records: Records, state: OperationState
) -> None:
    records.guest(S.MIGRATING)
    records.migration(str(uuids.uuid4()), state)
    assert records.see(word=None).standing is Standing.MOVING


def test_who_is_gone_has_moved_or_was_removed(records: Records) -> None:
    records.guest(S.GONE, moved_to="node-3")
    moved = records.see()
    assert (moved.standing, moved.dest) == (Standing.MOVED, "node-3")
    records.store.write(lambda tx: instances.remove(tx, GUEST))
    assert records.see().standing is Standing.REMOVED


@pytest.mark.parametrize("state", [S.SUSPENDED, S.RESCUED, S.RESIZED, S.SOFT_DELETED, S.ERROR])
def test_a_state_that_keeps_it_here_is_named_with_advice(records: Records, state: S) -> None:
    records.guest(state)
    found = records.see(asks=True)
    assert found.standing is Standing.BLOCKED
    assert found.error is not None and found.error.code == "InvalidState" and found.error.hint


def test_what_is_off_goes_cold(records: Records) -> None:
    records.guest(S.STOPPED, PowerState.SHUTDOWN)
    assert records.see().mode == "cold"


def test_what_may_pass_is_tried_again_and_not_for_ever(records: Records) -> None:
    records.guest()
    for attempt in range(MAX_ATTEMPTS):
        assert records.see().attempt == attempt
        assert records.see().standing is Standing.WAITING
        records.failed(attempt, BUSY)
    blocked = records.see()
    assert (blocked.standing, blocked.error) == (Standing.BLOCKED, BUSY.to_error())


@pytest.mark.parametrize("error", [REFUSED, errors.Timeout("slow"), errors.Cancelled("no")])
def test_what_will_not_pass_blocks_at_once(records: Records, error: errors.ComputeError) -> None:
    records.guest()
    records.failed(0, error)
    assert records.see().standing is Standing.BLOCKED


def test_a_further_word_begins_anew(records: Records) -> None:
    records.guest()
    records.failed(0, REFUSED)
    further = records.see(word=Word(dest="node-2", operation_id=str(uuids.uuid4())))
    assert (further.standing, further.attempt) == (Standing.WAITING, 0)


def test_where_hosts_are_asked_for_another_is_asked_for_when_one_has_refused(records: Records) -> None:
    records.guest()
    records.failed(0, REFUSED)
    asked = records.see(asks=True)
    assert (asked.standing, asked.dest, asked.error) == (Standing.ASKED, "node-2", REFUSED.to_error())


def test_whom_another_host_may_have_by_now_is_not_sent_anywhere(records: Records) -> None:
    records.guest(S.STOPPED, PowerState.SHUTDOWN)

    def await_word(tx: Transaction) -> None:
        host.put(tx, AWAITING, json.dumps([GUEST]))

    records.store.write(await_word)
    assert records.see().standing is Standing.BLOCKED


def test_one_that_is_being_made_is_waited_for(records: Records) -> None:
    records.guest(S.BUILDING, PowerState.NOSTATE)
    found = records.see()
    assert (found.standing, found.error) == (Standing.WAITING, None)

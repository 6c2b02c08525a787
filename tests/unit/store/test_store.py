# SPDX-License-Identifier: Apache-2.0
"""What the state file promises: groups, order, gapless events, and going on after a damage."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent import concurrency
from compute_agent.model import clock, errors
from compute_agent.model.event import EventType
from compute_agent.store import host, outbox
from compute_agent.store.database import Store, Transaction
from compute_agent.store.directory import StateDirectory, Unusable


def tell(tx: Transaction) -> int:
    return outbox.append(tx, EventType.HOST_PROBLEM)


def test_a_write_that_fails_takes_no_other_with_it(store: Store) -> None:
    def fail(tx: Transaction) -> None:
        tell(tx)
        raise errors.InvalidState("no")

    pending = [store.submit(tell), store.submit(fail), store.submit(tell)]
    assert pending[0].wait() == 1
    with pytest.raises(errors.InvalidState):
        pending[1].wait()
    assert pending[2].wait() == 2


def test_writes_are_done_in_the_order_in_which_they_were_handed_in(store: Store) -> None:
    pending = [store.submit(tell) for _ in range(500)]
    assert [one.wait() for one in pending] == list(range(1, 501))


def test_a_reader_sees_only_what_is_committed(store: Store) -> None:
    store.write(tell)
    assert store.read(outbox.last_seq) == 1
    with pytest.raises(sqlite3.OperationalError):
        store.read(tell)


def test_new_events_are_handed_to_whoever_publishes_them_once_they_are_durable(store: Store) -> None:
    told: list[int | None] = []
    store.on_events = lambda events: told.extend(event.seq for event in events)
    store.write(lambda tx: host.put(tx, "a", "b"))
    with pytest.raises(errors.Internal):
        store.write(lambda tx: (tell(tx), _raise()))
    assert told == []
    store.write(tell)
    assert told == [1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["tell", "fail", "sent", "age"]), max_size=40))
def test_events_have_no_gaps_and_unsent_ones_are_never_aged_out(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str]
) -> None:
    store = Store(str(tmp_path_factory.mktemp("s") / "state.db"))
    store.identity = store.write(lambda tx: host.identify(tx, "node-1"))
    told = sent = 0
    for action in actions:
        if action == "tell":
            told = store.write(tell)
        elif action == "fail":
            with pytest.raises(errors.Internal):
                store.write(lambda tx: (tell(tx), _raise()))
        elif action == "sent" and sent < told:
            sent += 1
            store.write(lambda tx, seq=sent: outbox.mark_sent(tx, seq))  # type: ignore[misc]
        else:
            store.write(lambda tx: outbox.age_out(tx, clock.timestamp(clock.after(60)), 10**6))
        kept = [event.seq for event in store.read(lambda tx: outbox.unsent(tx, 0, 1000))]
        assert kept[-1:] in ([told], []) and kept == sorted(kept)
        assert set(range(sent + 1, told + 1)) <= set(kept)
    store.close()


def _raise() -> None:
    raise errors.Internal("no")


def test_a_full_disk_is_typed_and_loses_nothing_that_was_acknowledged(store: Store) -> None:
    store.write(tell)
    (pages,) = store.write(lambda tx: tx.row("PRAGMA page_count"))
    store.write(lambda tx: tx.row(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(errors.DiskFull):
        store.write(lambda tx: host.put(tx, "big", "x" * 10**6))
    store.write(lambda tx: tx.row("PRAGMA max_page_count = 1000000"))
    assert store.write(tell) == 2


def test_a_directory_belongs_to_one_agent_at_a_time(tmp_path: Path) -> None:
    first = StateDirectory(str(tmp_path))
    with pytest.raises(Unusable, match="in use"):
        StateDirectory(str(tmp_path))
    first.close(first.open("node-1"))
    StateDirectory(str(tmp_path))


def test_a_directory_belongs_to_one_host(tmp_path: Path) -> None:
    first = StateDirectory(str(tmp_path))
    first.close(first.open("node-1"))
    with pytest.raises(Unusable, match="node-1"):
        StateDirectory(str(tmp_path)).open("node-2")


def test_identity_outlives_a_restart(tmp_path: Path) -> None:
    directory = StateDirectory(str(tmp_path))
    store = directory.open("node-1")
    before = store.identity
    directory.close(store)
    assert StateDirectory(str(tmp_path)).open("node-1").identity == before


@pytest.mark.parametrize("damage", ["missing", "torn", "nonsense"])
def test_a_lost_state_file_begins_a_new_epoch_and_says_so(tmp_path: Path, damage: str) -> None:
    directory = StateDirectory(str(tmp_path))
    store = directory.open("node-1")
    before = store.identity
    store.write(lambda tx: [tell(tx) for _ in range(100)] and None)
    store.close()
    import os

    os.close(directory._lock)
    path = tmp_path / "state.db"
    for wal in tmp_path.glob("state.db-*"):
        wal.unlink()
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])
    else:
        path.write_bytes(b"\xff" * 8192)
    store = StateDirectory(str(tmp_path)).open("node-1")
    assert before is not None and store.identity is not None
    assert store.identity.host_id == before.host_id
    assert store.identity.epoch > before.epoch
    (event,) = store.read(lambda tx: outbox.unsent(tx, 0, 10))
    assert event.type is EventType.HOST_STATE_RESET
    assert "queued operations" in event.data["not_recovered"]
    if damage != "missing":
        assert list(tmp_path.glob("state.db.damaged-*"))


def test_a_write_that_comes_while_the_file_is_closed_does_no_harm(tmp_path: Path) -> None:
    for number in range(30):
        store = Store(str(tmp_path / f"{number}.db"))
        store.identity = store.write(lambda tx: host.identify(tx, "node-1"))
        late = [concurrency.spawn(store.submit, tell) for _ in range(20)]
        store.close()
        for task in late:
            task.wait()

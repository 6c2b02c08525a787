# SPDX-License-Identifier: Apache-2.0
"""What must not get lost is written when the disk can take it, in its order; and readers see one moment."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from compute_agent import concurrency
from compute_agent.model import errors
from compute_agent.store import database, host, outbox
from compute_agent.store.database import Store, Transaction
from tests.unit.store.problems import tell, told


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "RETRY_S", 0.05)


class Disk:
    """Stands before the writer's connection and fails as a disk does."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.problem: sqlite3.OperationalError | None = None
        self.rollback_fails = False

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if self.problem is not None and statement == "COMMIT":
            raise self.problem
        if self.rollback_fails and statement == "ROLLBACK":
            self._connection.execute(statement)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def disk(store: Store) -> Disk:
    disk = Disk(store._connection)
    store._connection = disk  # type: ignore[assignment]
    return disk


def failure(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN])
def test_what_is_owed_is_written_in_order_when_the_disk_takes_it_again(
    store: Store, disk: Disk, code: int
) -> None:
    disk.problem = failure(code)
    store.submit(tell("first"), owed=True)
    concurrency.sleep(0.02)
    later = concurrency.spawn(store.insist, tell("second"))
    concurrency.sleep(0.12)
    with pytest.raises(errors.ComputeError):
        store.write(tell("not owed"))
    disk.problem = None
    later.wait()
    store.write(tell("third"))
    assert told(store) == ["first", "second", "third"]


def test_a_rollback_that_fails_does_not_end_the_writer(store: Store, disk: Disk) -> None:
    disk.problem, disk.rollback_fails = failure(sqlite3.SQLITE_IOERR), True
    with pytest.raises(errors.DiskFull):
        store.write(tell("lost"))
    disk.problem, disk.rollback_fails = None, False
    store.write(tell("kept"))
    assert told(store) == ["kept"]


def test_a_faulty_statement_fails_alone(store: Store) -> None:
    good, bad = store.submit(tell("good")), store.submit(lambda tx: tx.execute("SELECT nonsense"))
    good.wait()
    with pytest.raises(sqlite3.OperationalError):
        bad.wait()
    assert told(store) == ["good"]


def test_a_reader_sees_one_moment(store: Store) -> None:
    read_first, go_on = concurrency._native_threading.Event(), concurrency._native_threading.Event()

    def look(tx: Transaction) -> tuple[int, int]:
        before = outbox.last_seq(tx)
        read_first.set()
        go_on.wait(5)
        return before, outbox.last_seq(tx)

    reading = concurrency.spawn(store.read, look)
    while not read_first.is_set():
        concurrency.sleep(0.005)
    store.write(tell("meanwhile"))
    go_on.set()
    before, after = reading.wait()
    assert before == after


def test_a_secret_is_not_left_in_the_file_when_its_row_has_gone(tmp_path: Path, store: Store) -> None:
    store.write(lambda tx: host.put(tx, "arguments", "s3cret" * 2000))
    store.write(lambda tx: host.drop(tx, "arguments"))
    store.write(lambda tx: None)
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.close()
    assert b"s3cret" not in Path(store.path).read_bytes()

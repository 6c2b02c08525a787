# SPDX-License-Identifier: Apache-2.0
"""On a full disk what has begun is written with the room of the reserve, and nothing new is taken on."""

import collections
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.store import database, host, reserve
from compute_agent.store.database import Store
from compute_agent.store.reserve import Reserve
from tests.unit.store.problems import tell, told

SIZE = 65536
Room = collections.namedtuple("Room", "f_bavail f_frsize")


class Disk:
    """A disk that is full but for what the reserve has given up."""

    def __init__(self, connection: sqlite3.Connection, file: Path) -> None:
        self._connection = connection
        self._file = file
        self.full = False

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if self.full and statement == "COMMIT" and self._file.exists():
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(statement, *parameters)

    def statvfs(self, _path: object) -> Room:
        return Room(0 if self.full else 2**20, 4096)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(database, "RETRY_S", 0.02)
    kept = Reserve(tmp_path / "reserve", SIZE)
    assert kept.take_again()
    store = Store(str(tmp_path / "state.db"), kept)
    store.identity = store.write(lambda tx: host.identify(tx, "node-1"))
    yield store
    store.close()


@pytest.fixture
def disk(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(store._connection, tmp_path / "reserve")
    store._connection = disk  # type: ignore[assignment]
    monkeypatch.setattr(reserve.os, "statvfs", disk.statvfs)  # type: ignore[attr-defined]
    return disk


def test_what_has_begun_ends_and_nothing_new_begins_until_there_is_room(
    store: Store, disk: Disk, tmp_path: Path
) -> None:
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= SIZE
    disk.full = True
    with pytest.raises(errors.DiskFull):
        store.write(tell("is not owed, and has no right to the reserve"))
    assert (tmp_path / "reserve").exists()
    store.insist(tell("the end of what has begun"))
    assert not (tmp_path / "reserve").exists()
    assert not store.roomy.is_set()
    with pytest.raises(errors.DiskFull) as refused:
        store.take_on(tell("new"))
    assert refused.value.retry_after_s
    store.insist(tell("another end"))
    disk.full = False
    assert store.roomy.wait(30), "it finds out by itself"
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= SIZE
    store.take_on(tell("new, again"))
    assert told(store) == ["the end of what has begun", "another end", "new, again"]


def test_a_reserve_of_an_earlier_run_is_held_and_one_that_is_hollow_is_not(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    first = Reserve(path, SIZE)
    assert not first.held
    assert first.take_again()
    assert not first.take_again(), "it is held already"
    assert Reserve(path, SIZE).held
    assert not Reserve(path, 2 * SIZE).held
    os.truncate(path, 0)
    os.truncate(path, SIZE)
    assert not Reserve(path, SIZE).held


def test_where_no_room_can_be_kept_the_agent_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> Any:
        def allocate(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        return allocate

    for number, held in ((errno.EOPNOTSUPP, True), (errno.ENOSPC, False)):
        kept = Reserve(tmp_path / "reserve", SIZE)
        monkeypatch.setattr(os, "posix_fallocate", fails(number))
        assert kept.take_again() is kept.held is held
        assert not (tmp_path / "reserve").exists()


def test_an_outage_of_the_disk_is_logged_once(
    store: Store, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    disk.full = True
    for _ in range(5):
        with pytest.raises(errors.DiskFull):
            store.write(tell("no"))
    disk.full = False
    store.write(tell("yes"))
    lines = [record for record in caplog.records if record.levelname in ("ERROR", "INFO")]
    assert [record.levelname for record in lines] == ["ERROR", "INFO"]

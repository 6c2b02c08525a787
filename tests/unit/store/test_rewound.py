# SPDX-License-Identifier: Apache-2.0
"""An older copy of the state file is noticed, nothing in it is done again; a crash is not taken for one."""

import contextlib
import os
import shutil
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.model.event import EventType
from compute_agent.model.handshake import Kind, Phase
from compute_agent.model.operation import Operation, OperationState
from compute_agent.store import copying, directory, handshakes, host, journal, outbox
from compute_agent.store.database import Store, Transaction
from compute_agent.store.directory import NotNow, StateDirectory, Unusable
from tests.unit.house import House
from tests.unit.store import golden

ACTIONS = ["tell", "note", "stop", "crash", "lose the note", "tear the note"]
SECRET = "s3cret-of-the-caller"


class Place:
    """A state directory with an agent on it that comes and goes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "state.db"
        self.copy = path.with_name("copy.db")
        self._directory: StateDirectory | None = None

    def start(self, name: str = "node-1") -> Store:
        self._directory = StateDirectory(str(self.path))
        try:
            self.store = self._directory.open(name)
        except Unusable:
            self.release()
            raise
        return self.store

    def release(self) -> None:
        """Let go of the directory, as the end of a process does."""
        assert self._directory is not None
        with contextlib.suppress(OSError):
            os.close(self._directory._lock)

    def stop(self) -> None:
        assert self._directory is not None
        self._directory.close(self.store)

    def crash(self) -> None:
        """The state file is as a kill leaves it, and nothing else is written."""
        assert self._directory is not None
        self.store.close()
        os.close(self._directory._lock)

    def note(self) -> None:
        assert self._directory is not None
        self._directory.note_progress(self.store)

    def keep_copy(self) -> None:
        """Copy the file as a backup program may: wholly, and without a mark of ours."""
        self.copy.unlink(missing_ok=True)
        with (
            contextlib.closing(sqlite3.connect(self.file)) as source,
            contextlib.closing(sqlite3.connect(self.copy)) as target,
        ):
            source.backup(target)

    def put_back(self) -> None:
        for path in self.path.glob("state.db*"):
            path.unlink()
        shutil.copy(self.copy, self.file)

    def resets(self) -> list[dict[str, Any]]:
        events = self.store.read(lambda tx: outbox.unsent(tx, 0, 1000))
        return [event.data for event in events if event.type is EventType.HOST_STATE_RESET]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "state")


def tell(tx: Transaction) -> int:
    return outbox.append(tx, EventType.HOST_PROBLEM)


def ask(tx: Transaction, state: OperationState = OperationState.ACCEPTED) -> str:
    operation = Operation(
        operation_id=str(uuid.uuid4()),
        verb="destroy",
        instance_uuid=str(uuid.uuid4()),
        host="node-1",
        host_id=tx.identity.host_id,
        state=state,
        accepted_at="2026-01-01T00:00:00.000000Z",
    )
    journal.append(tx, operation, {"new_pass": SECRET})
    journal.remember(tx, operation.operation_id, b"digest", None)
    tell(tx)
    return operation.operation_id


def begin_anew(place: Place, before: str) -> dict[str, Any]:
    """What the event says with which a new epoch begins."""
    store = place.start()
    assert store.identity is not None
    assert store.identity.epoch > before
    (reset,) = place.resets()
    assert reset["reason"] == "rewound"
    assert list(place.path.glob("state.db.rewound-*"))
    return reset


def epoch(store: Store) -> str:
    assert store.identity is not None
    return store.identity.epoch


def test_a_copy_of_an_earlier_run_is_noticed_and_what_lived_in_it_is_not_done_again(place: Place) -> None:
    store = place.start()
    before, host_id = epoch(store), store.identity and store.identity.host_id
    live = [store.write(ask), store.write(lambda tx: ask(tx, OperationState.RUNNING))]
    store.write(lambda tx: host.object_to_guests(tx, host.OPERATOR, "repair"))
    place.keep_copy()
    place.stop()
    place.start()
    place.stop()
    place.put_back()
    reset = begin_anew(place, before)
    assert reset["interrupted"] == live
    assert reset["interrupted_count"] == 2
    assert place.store.identity is not None
    assert place.store.identity.host_id == host_id
    assert place.store.read(journal.live) == []
    for operation_id in live:
        ended = place.store.read(lambda tx, id=operation_id: journal.find(tx, id))  # type: ignore[misc]
        assert ended is not None
        assert ended.error is not None
        assert (ended.state, ended.error.code) == (OperationState.FAILED, "Interrupted")
        assert ended.error.evidence
        assert place.store.read(lambda tx, id=operation_id: journal.seen(tx, id)).digest == b"digest"  # type: ignore[misc]
    assert place.store.read(host.reasons) == {host.OPERATOR: "repair"}
    assert place.store.read(outbox.last_seq) == 1, "an epoch's events are counted from one"
    place.stop()
    place.start()
    assert len(place.resets()) == 1, "it is told once, and the new file is as good as any"
    place.stop()


def test_a_copy_of_the_same_run_is_noticed(place: Place) -> None:
    store = place.start()
    before = epoch(store)
    place.keep_copy()
    store.write(tell)
    place.note()
    place.crash()
    place.put_back()
    begin_anew(place, before)
    place.stop()


def test_a_copy_from_before_another_loss_is_noticed(place: Place) -> None:
    place.start()
    place.keep_copy()
    place.stop()
    place.file.unlink()
    store = place.start()
    before = epoch(store)
    place.stop()
    place.put_back()
    begin_anew(place, before)
    place.stop()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), max_size=12))
def test_no_crash_is_taken_for_a_copy(tmp_path_factory: pytest.TempPathFactory, actions: list[str]) -> None:
    place = Place(tmp_path_factory.mktemp("place") / "state")
    before = epoch(place.start())
    for action in actions:
        if action == "tell":
            place.store.write(tell)
        elif action == "note":
            place.note()
        else:
            if action == "stop":
                place.stop()
            else:
                place.crash()
            if action == "lose the note":
                (place.path / "state.mark").unlink()
            elif action == "tear the note":
                (place.path / "state.mark").write_text('{"run": 9')
            assert epoch(place.start()) == before
    assert place.resets() == []
    place.stop()


def test_a_copy_of_another_host_is_refused_and_stays(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other" / "state")
    other.start("node-2")
    other.keep_copy()
    other.stop()
    for _ in range(3):
        place.start()
        place.stop()
    place.copy = other.copy
    place.put_back()
    with pytest.raises(Unusable, match="node-2"):
        place.start()
    assert not list(place.path.glob("*.rewound-*"))


@pytest.fixture
def backup(place: Place) -> Path:
    """A copy by our own means, of an agent that runs and then goes on."""
    store = place.start()
    store.write(ask)
    return copying.backup(place.path, place.copy)


def test_a_backup_holds_no_secret_and_is_its_owners(place: Place, backup: Path) -> None:
    assert SECRET.encode() in place.file.read_bytes() + place.file.with_name("state.db-wal").read_bytes()
    assert SECRET.encode() not in backup.read_bytes()
    assert backup.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in backup.parent.glob("copy.db*")] == ["copy.db"]
    with pytest.raises(FileExistsError):
        copying.backup(place.path, backup)
    assert len(place.store.read(journal.live)) == 1, "the agent's own file is as it was"
    place.stop()


def test_a_backup_is_known_as_one_wherever_it_is_put(place: Place, backup: Path, tmp_path: Path) -> None:
    before, host_id = epoch(place.store), place.store.identity and place.store.identity.host_id
    (live,) = [operation.operation_id for operation in place.store.read(journal.live)]
    place.crash()
    (place.path / "state.mark").unlink()
    place.put_back()
    assert begin_anew(place, before)["interrupted"] == [live]
    place.stop()
    fresh = Place(tmp_path / "fresh" / "state")
    fresh.copy = backup
    fresh.path.mkdir(parents=True)
    fresh.put_back()
    begin_anew(fresh, before)
    assert fresh.store.identity is not None
    assert fresh.store.identity.host_id == host_id
    fresh.stop()


def test_a_backup_needs_no_agent_and_leaves_none_of_its_own_files(place: Place) -> None:
    place.start().write(ask)
    place.stop()
    before = sorted(path.name for path in place.path.iterdir())
    made = copying.backup(place.path, place.path.parent)
    assert made == place.path.parent / "state.db"
    assert sorted(path.name for path in place.path.iterdir()) == before
    with pytest.raises(FileNotFoundError):
        copying.backup(place.path / "elsewhere", place.copy)
    assert not list(place.path.parent.glob("copy.db*"))


@pytest.mark.parametrize("version", golden.versions())
def test_a_file_of_the_release_before_is_copied_and_stays_as_it_is(place: Place, version: int) -> None:
    """An upgrade is installed before the agent of the release before is stopped."""
    place.path.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(place.file)) as connection:
        connection.executescript(golden.dump(version).read_text())
    copying.backup(place.path, place.copy)
    with contextlib.closing(sqlite3.connect(place.file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        (state,) = connection.execute("SELECT count(*) FROM operations WHERE state = 'running'").fetchone()
        assert state, "and what it says lives"
        (name,) = connection.execute("SELECT value FROM meta WHERE key = 'host'").fetchone()
    place.put_back()
    place.start(name)
    (reset,) = place.resets()
    assert reset["interrupted"]
    place.stop()


class Killed(BaseException):
    """The agent is no more."""


@pytest.mark.parametrize("last", range(6))
@pytest.mark.parametrize("lost", ["put back", "damaged"])
def test_killed_at_any_instant_the_loss_is_told_once_and_what_holds_stays(
    place: Place, backup: Path, last: int, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that is moved is an instant: killed before it, and everything begins again from there."""
    before = epoch(place.store)
    (live,) = [operation.operation_id for operation in place.store.read(journal.live)]
    place.stop()
    place.put_back()
    if lost == "damaged":
        place.file.write_bytes(b"torn" + place.file.read_bytes()[4:])
    rename, left = Path.rename, [last]

    def counted(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(Path, "rename", counted)
        place.start()
        place.crash()
    place.release()
    store = place.start()
    assert epoch(store) > before
    (reset,) = place.resets()
    assert store.read(outbox.last_seq) == 1
    if lost == "put back":
        assert reset["interrupted"] == [live]
        assert store.read(lambda tx: journal.find(tx, live)) is not None
    kept = [path for path in place.path.iterdir() if path.name.startswith("state.db.") and "-2" in path.name]
    assert kept, "it is kept aside"
    assert not [path for path in place.path.iterdir() if path.name.endswith((".new", ".part"))]
    place.stop()


def test_a_disk_that_fails_while_the_file_is_looked_through_is_no_damage_and_holds_nothing_open(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = epoch(place.start())
    place.crash()

    def fails(path: str) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    at_first = open_files()
    with monkeypatch.context() as patched:
        patched.setattr(directory, "check", fails)
        for _ in range(3):
            with pytest.raises(NotNow, match="disk I/O error"):
                place.start()
            place.release()
    assert open_files() == at_first
    assert epoch(place.start()) == before
    place.stop()


def open_files() -> list[str]:
    """What of a state file this process has open."""
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    found = [str(link.readlink()) for link in links if link.is_symlink()]
    return sorted(name for name in found if "state.db" in name)


def test_a_migration_that_had_not_ended_in_a_copy_does_not_go_on(place: Place) -> None:
    place.start()
    for settled in (False, True):
        record = handshakes.HandshakeRecord(
            migration_id=str(uuid.uuid4()),
            instance_uuid=str(uuid.uuid4()),
            kind=Kind.PRECOPY,
            phase=Phase.MOVING,
            settled=settled,
            source="node-1",
            destination="node-2",
        )
        place.store.write(lambda tx, record=record: handshakes.put(tx, record))  # type: ignore[misc]
    before = epoch(place.store)
    copying.backup(place.path, place.copy)
    place.crash()
    place.put_back()
    begin_anew(place, before)
    assert place.store.read(handshakes.live) == []
    assert place.store.read(lambda tx: handshakes.find(tx, record.migration_id)) is not None
    place.stop()


def test_the_directorys_own_host_id_stays(place: Place, tmp_path: Path) -> None:
    """It stands in what was written on disks and domains since."""
    place.start()
    copy = copying.backup(place.path, place.copy)
    place.stop()
    other = Place(tmp_path / "other" / "state")
    own = other.start().identity
    other.stop()
    other.copy = copy
    other.put_back()
    now = other.start().identity
    assert own is not None
    assert now is not None
    assert (now.host_id, now.epoch > own.epoch) == (own.host_id, True)
    other.stop()


def test_guests_come_back_from_their_domains_not_from_the_copy(house: House) -> None:
    gone, comes = str(uuid.uuid4()), str(uuid.uuid4())
    changed = house.spawn(vendor_data={"key": SECRET})
    house.spawn(uuid=gone)
    house.spawn(uuid=comes, generation=1)
    assert house.do("destroy", instance_uuid=comes).error is None
    copy = copying.backup(house.path / "state", house.path / "copy.db")
    assert SECRET.encode() not in copy.read_bytes()
    assert house.do("power_off", instance_uuid=changed, timeout=0).error is None
    assert house.do("destroy", instance_uuid=gone).error is None
    house.spawn(uuid=comes, generation=2)
    house.stop()
    for path in (house.path / "state").glob("state.db*"):
        path.unlink()
    shutil.copy(copy, house.path / "state" / "state.db")
    house.start()
    assert house.record(changed).state == "stopped"
    assert (house.record(comes).state, house.record(comes).generation) == ("active", 2)
    listed = house.question("list_instance_uuids")["uuids"]
    assert sorted(listed) == sorted([changed, comes])

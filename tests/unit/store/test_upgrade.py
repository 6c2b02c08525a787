# SPDX-License-Identifier: Apache-2.0
"""Forward, and one release back: files of every schema are opened, worked on, and nothing in them is lost.

Why it is done so is in docs/decisions/018.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from compute_agent import failpoints
from compute_agent.conf import CONF
from compute_agent.model.event import EventType
from compute_agent.model.handshake import Phase
from compute_agent.model.operation import Operation, OperationState
from compute_agent.store import handshakes, host, instances, journal, outbox, schema
from compute_agent.store.database import Store
from compute_agent.store.directory import StateDirectory
from tests.unit.house import House
from tests.unit.store import golden
from tests.unit.store.golden import filling

LATER = schema.VERSION + 1


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where a state file is to be."""
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state" / "state.db"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Callable[[], House]]:
    """Start an agent over the state directory, on a fake host without guests."""
    if not CONF._namespace:
        CONF([])
    CONF.set_override("ledger", str(tmp_path / "ledger"), group="fake")
    started: list[House] = []

    def start() -> House:
        started.append(House(tmp_path))
        return started[-1]

    yield start
    failpoints.arm("")
    for one in started:
        for entry in one.manager.engine.entries:
            entry.cancel()
        one.stop()
    CONF.clear_override("ledger", group="fake")


def make(path: Path, version: int, *more: str) -> None:
    """Make the state file of a schema, and change it with further statements."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(golden.dump(version).read_text())
    for statement in more:
        connection.execute(statement)
    connection.close()


def rows(path: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


@contextlib.contextmanager
def opened(state: Path) -> Iterator[Store]:
    directory = StateDirectory(str(state.parent))
    store = directory.open("node-1")
    yield store
    directory.close(store)


TABLES = ("operations", "operation_ids", "instances", "events", "reasons", "security_groups")


# --- forward -----------------------------------------------------------------------------------------


def test_there_is_a_file_of_every_schema_that_ever_landed() -> None:
    assert golden.versions() == list(range(1, schema.VERSION + 1))
    assert all(golden.records(version).exists() for version in golden.versions())


@pytest.mark.parametrize("version", golden.versions())
def test_landed_upgrades_are_as_they_landed(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "UPGRADES", schema.UPGRADES[:version])
    connection = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
    schema.upgrade(connection)
    connection.close()
    make(tmp_path / "golden.db", version)
    assert _shape(tmp_path / "new.db") == _shape(tmp_path / "golden.db")


def _shape(path: Path) -> dict[str, str]:
    found = rows(path, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: " ".join(sql.replace('"', "").split()) for name, sql in found}


@pytest.mark.parametrize("version", golden.versions())
def test_a_file_of_any_release_is_opened_and_nothing_in_it_is_lost(state: Path, version: int) -> None:
    make(state, version)
    before = {table: rows(state, f"SELECT count(*) FROM {table}") for table in TABLES}
    identity = dict(rows(state, "SELECT key, value FROM meta"))
    with opened(state) as store:
        assert store.identity is not None and store.identity.host_id == identity["host_id"]
        assert store.identity.epoch == identity["epoch"], "it is the same state, not a new one"
        for table in TABLES:
            kept = store.read(lambda tx, table=table: tx.rows(f"SELECT count(*) FROM {table}"))
            assert kept == before[table]
        operations = store.read(lambda tx: journal.page(tx, **dict.fromkeys(PAGE), limit=1000))
        assert len(operations) == before["operations"][0][0]
        uuids = store.read(lambda tx: tx.rows("SELECT uuid FROM instances"))
        assert all(store.read(lambda tx, uuid=uuid: instances.find(tx, uuid)) for (uuid,) in uuids)
        events = store.read(lambda tx: outbox.unsent(tx, 0, 10_000))
        assert [event.seq for event in events] == list(range(1, before["events"][0][0] + 1))
        assert store.write(lambda tx: outbox.append(tx, EventType.HOST_PROBLEM)) == len(events) + 1
    assert rows(state, "PRAGMA user_version") == [(schema.VERSION,)]


PAGE = ("state", "verb", "since", "instance_uuid", "marker")


@pytest.mark.parametrize("version", golden.versions())
def test_what_an_upgrade_interrupted_goes_on(state: Path, house: Callable[[], House], version: int) -> None:
    make(state, version)
    live = [msgspec.json.decode(r, type=Operation) for (r,) in rows(state, f"SELECT record {LIVE}")]
    assert {one.state for one in live} == {OperationState.ACCEPTED, OperationState.RUNNING}
    agent = house()
    agent.settle()
    ended = {
        one.operation_id: agent.store.read(lambda tx, one=one: journal.find(tx, one.operation_id))
        for one in live
    }
    outcome = {one.verb: ended[one.operation_id] for one in live}
    assert all(one is not None and one.ended for one in ended.values())
    assert outcome["spawn"].state is OperationState.SUCCEEDED and outcome["spawn"].attempts == 2
    assert outcome["reboot"].state is OperationState.SUCCEEDED and outcome["reboot"].attempts == 1
    assert outcome["set_admin_password"].error.code == "Interrupted"
    assert outcome["pause"].error.code == "InstanceNotFound", "the fake host has only what was spawned since"
    assert agent.record(filling.SPAWNING).state == "active"


LIVE = "FROM operations WHERE state IN ('accepted', 'running') ORDER BY position"


def test_an_operation_goes_on_whatever_step_another_release_was_at(
    state: Path, house: Callable[[], House]
) -> None:
    """Nothing is remembered of steps but for a person to read: what is there tells how far it got."""
    make(state, schema.VERSION)
    connection = sqlite3.connect(state)
    record = "CAST(json_set(record, '$.step', 'a_step_of_old') AS BLOB)"
    changed = connection.execute(f"UPDATE operations SET record = {record} WHERE state = 'running'")
    assert changed.rowcount == 3
    connection.commit()
    connection.close()
    agent = house()
    agent.settle()
    assert agent.record(filling.SPAWNING).state == "active"
    assert [event.data["verb"] for event in agent.events("operation.succeeded")][-2:] == ["spawn", "reboot"]


def test_an_upgrade_that_does_not_fit_leaves_the_file_as_it_was(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(state, schema.VERSION)
    script = "CREATE TABLE new (x); CREATE UNIQUE INDEX wrong ON operations (verb);"
    _release_later(monkeypatch, schema.Upgrade(contract=1, script=script))
    with pytest.raises(schema.UpgradeFailed, match=f"schema {LATER}"):
        StateDirectory(str(state.parent)).open("node-1")
    assert rows(state, "PRAGMA user_version") == [(schema.VERSION - 1,)]
    assert rows(state, "SELECT name FROM sqlite_master WHERE name IN ('new', 'wrong')") == []
    assert not list(state.parent.glob("*damaged*")), "it is not damaged: nothing may be made anew"


def test_an_upgrade_that_is_interrupted_is_done_at_the_next_start(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(state, schema.VERSION)
    upgrade = schema.Upgrade(contract=1, script="CREATE TABLE new (x); INSERT INTO new VALUES (1);")
    connection = sqlite3.connect(state, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE new (x)")
    connection.close()  # killed before its commit
    _release_later(monkeypatch, upgrade)
    for _ in range(2):
        with opened(state) as store:
            assert store.read(lambda tx: tx.rows("SELECT * FROM new")) == [(1,)]
            assert store.read(lambda tx: host.get(tx, schema.CONTRACT)) == "1"


# --- back ----------------------------------------------------------------------------------------------


def _release_later(monkeypatch: pytest.MonkeyPatch, upgrade: schema.Upgrade) -> None:
    """Let this be the release after."""
    monkeypatch.setattr(schema, "UPGRADES", (*schema.UPGRADES, upgrade))
    monkeypatch.setattr(schema, "VERSION", LATER)


def of_a_later_release(contract: int | None, version: int = LATER) -> list[str]:
    """What a later release may add to a file: tables, columns, indexes, fields, types of events."""
    field = "CAST(json_set(record, '$.new_field', 1) AS BLOB)"
    inner = "CAST(json_set(record, '$.instance.new_field', 1, '$.new_field', 1) AS BLOB)"
    return [
        "CREATE TABLE new (x)",
        "ALTER TABLE operations ADD COLUMN new TEXT",
        "ALTER TABLE instances ADD COLUMN new TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX new_index ON events (type)",
        f"UPDATE operations SET new = 'n', record = {field}",
        f"UPDATE instances SET new = 'n', record = {inner}",
        "INSERT INTO events (type, occurred_at, body) SELECT 'host.of_tomorrow', occurred_at,"
        " CAST(json_set(body, '$.type', 'host.of_tomorrow', '$.new_field', 1) AS BLOB)"
        " FROM events WHERE seq = 1",
        f"PRAGMA user_version = {version}",
        *([f"INSERT OR REPLACE INTO meta VALUES ('contract', '{contract}')"] if contract else []),
    ]


@pytest.mark.parametrize("version", [LATER, LATER + 1])
def test_a_file_of_a_later_release_that_only_added_is_worked_on(
    state: Path, house: Callable[[], House], version: int
) -> None:
    make(state, schema.VERSION, *of_a_later_release(contract=schema.VERSION, version=version))
    agent = house()
    agent.settle()
    assert agent.record(filling.SPAWNING).state == "active"
    assert agent.do("power_off", instance_uuid=filling.SPAWNING, timeout=0).error is None
    assert agent.question("list_operations", limit=100)["operations"]
    snapshot = agent.question("get_snapshot")
    assert filling.SPAWNING in {record["uuid"] for record in snapshot["instances"]}
    assert agent.store.read(lambda tx: tx.row("PRAGMA user_version")) == (version,), "it is the later one's"


def test_an_event_that_only_a_later_release_knows_is_sent_on_in_its_place(state: Path) -> None:
    make(state, schema.VERSION, *of_a_later_release(contract=schema.VERSION))
    with opened(state) as store:
        events = store.read(lambda tx: outbox.unsent(tx, 0, 10_000))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert msgspec.to_builtins(events[-1])["type"] == "host.of_tomorrow"


@pytest.mark.parametrize("contract", [LATER, None])
def test_a_file_that_a_later_release_has_taken_from_is_left_alone(state: Path, contract: int | None) -> None:
    make(state, schema.VERSION, *of_a_later_release(contract), "DROP TABLE reasons")
    if contract is None:
        make_unsigned(state)
    before = state.read_bytes()
    with pytest.raises(schema.TooNew, match="install the later release"):
        StateDirectory(str(state.parent)).open("node-1")
    assert state.read_bytes() == before
    assert {path.name for path in state.parent.glob("state.db*")} <= {
        "state.db",
        "state.db-wal",
        "state.db-shm",
    }


def make_unsigned(state: Path) -> None:
    connection = sqlite3.connect(state)
    connection.execute("DELETE FROM meta WHERE key = 'contract'")
    connection.commit()
    connection.close()


def test_there_and_back_and_there_again(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this release writes in between, the later one reads."""
    make(state, schema.VERSION)
    upgrade = schema.Upgrade(contract=schema.VERSION, script="ALTER TABLE reasons ADD COLUMN until TEXT;")
    with monkeypatch.context() as later:
        _release_later(later, upgrade)
        with opened(state) as store:
            store.write(lambda tx: tx.execute("INSERT INTO reasons VALUES ('a', 'b', 'c', 'd')"))
    with opened(state) as store:
        assert store.read(host.reasons)["a"] == "b"
        store.write(lambda tx: host.object_to_guests(tx, "operator", "from before"))
    _release_later(monkeypatch, upgrade)
    with opened(state) as store:
        found = store.read(
            lambda tx: tx.rows("SELECT owner, until FROM reasons WHERE owner IN ('a', 'operator')")
        )
        assert found == [("a", "d"), ("operator", None)]


# --- what each release promises the one before ---------------------------------------------------------


def test_contracts_only_rise_and_never_past_the_release_before() -> None:
    contracts = [upgrade.contract for upgrade in schema.UPGRADES]
    assert contracts == sorted(contracts)
    assert all(contract <= max(1, number - 1) for number, contract in enumerate(contracts, start=1))


def within_contract() -> list[int]:
    """The schemas whose releases may work on a file of this one."""
    return [version for version in golden.versions() if version >= schema.UPGRADES[-1].contract]


@dataclasses.dataclass(frozen=True)
class Column:
    kind: str
    required: bool
    key: int


def columns(path: Path) -> dict[str, dict[str, Column]]:
    tables = [name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        table: {
            name: Column(kind, bool(notnull) and default is None, key)
            for _, name, kind, notnull, default, key in rows(path, f"PRAGMA table_info({table})")
        }
        for table in tables
    }


@pytest.mark.parametrize("version", within_contract())
def test_the_tables_have_all_that_a_release_before_works_with(tmp_path: Path, version: int) -> None:
    make(tmp_path / "then.db", version)
    make(tmp_path / "now.db", schema.VERSION)
    then, now = columns(tmp_path / "then.db"), columns(tmp_path / "now.db")
    for table, known in then.items():
        assert known.items() <= now[table].items(), f"{table}: it would miss or misread a column"
        added = now[table].keys() - known.keys()
        assert not any(now[table][name].required for name in added), f"{table}: its inserts would fail"


@pytest.mark.parametrize("version", within_contract())
def test_the_records_are_such_that_a_release_before_reads_them(
    house: Callable[[], House], version: int
) -> None:
    agent = filling.fill(house())
    defined = json.loads(golden.records(version).read_text())
    for kind, statement in (
        ("InstanceRecord", "SELECT record FROM instances"),
        ("Operation", "SELECT record FROM operations"),
        ("Event", "SELECT body FROM events"),
    ):
        check = jsonschema.Draft202012Validator({**defined, "$ref": f"#/$defs/{kind}"}).validate
        found = agent.store.read(lambda tx, statement=statement: tx.rows(statement))
        assert len(found) > 5
        for (text,) in found:
            check(json.loads(text))


@pytest.mark.parametrize("version", [version for version in golden.versions() if version >= 2])
def test_the_handshakes_of_any_release_go_on_where_they_were(state: Path, version: int) -> None:
    make(state, version)
    with opened(state) as store:
        live = store.read(handshakes.live)
    later = {Phase.CONFIRMED, Phase.DISCARDING}  # of releases since, in words that these know
    assert {record.phase for record in live} == set(Phase) - {Phase.KEPT, Phase.DROPPED} - later
    assert all(record.instance is not None for record in live)


@pytest.mark.parametrize("version", [version for version in within_contract() if version >= 2])
def test_handshakes_are_such_that_a_release_before_reads_them(
    house: Callable[[], House], version: int
) -> None:
    defined = json.loads(golden.records(version).read_text())
    check = jsonschema.Draft202012Validator({**defined, "$ref": "#/$defs/HandshakeRecord"}).validate
    for (text,) in filling.fill(house()).store.read(lambda tx: tx.rows("SELECT record FROM handshakes")):
        check(json.loads(text))

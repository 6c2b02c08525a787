# SPDX-License-Identifier: Apache-2.0
"""The tables, and how an older state file becomes a current one.

A release first adds what it needs and still keeps what the release before works with; only a
later one takes away. So that this can be relied on, each file says for itself which is the oldest
release that may work on it (its *contract*), and a release that is older than that leaves it alone.
Entries of :data:`UPGRADES` are never changed once they have landed. See docs/decisions/018.
"""

import contextlib
import dataclasses
import logging
import sqlite3

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Upgrade:
    """From one schema to the next.

    :param contract: the oldest schema whose release can work on the file afterwards. It may only rise
        to one that has been out: first add (and keep it), a release later take away (and raise it)
    :param script: the statements; they share one transaction
    """

    contract: int
    script: str


UPGRADES: tuple[Upgrade, ...] = (
    Upgrade(
        contract=1,
        script="""
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

    CREATE TABLE operations (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        operation_id TEXT NOT NULL UNIQUE,
        verb TEXT NOT NULL,
        instance_uuid TEXT,
        state TEXT NOT NULL,
        accepted_at TEXT NOT NULL,
        finished_at TEXT,
        record BLOB NOT NULL,
        arguments BLOB
    );
    CREATE INDEX operations_live ON operations (position) WHERE state IN ('accepted', 'running');
    CREATE INDEX operations_instance ON operations (instance_uuid, position);
    CREATE INDEX operations_finished ON operations (finished_at) WHERE finished_at IS NOT NULL;

    CREATE TABLE operation_ids (
        operation_id TEXT PRIMARY KEY,
        digest BLOB,
        unique_id TEXT,
        seen_at TEXT NOT NULL,
        cancelled INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE INDEX operation_ids_age ON operation_ids (seen_at);

    CREATE TABLE instances (
        uuid TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        updated_at TEXT NOT NULL,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX instances_name ON instances (name) WHERE state != 'gone';

    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        type TEXT NOT NULL,
        instance_uuid TEXT,
        occurred_at TEXT NOT NULL,
        body BLOB NOT NULL
    );

    CREATE TABLE reasons (owner TEXT PRIMARY KEY, reason TEXT NOT NULL, since TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE security_groups (id TEXT PRIMARY KEY, rules BLOB, members BLOB) WITHOUT ROWID;
    """,
    ),
    Upgrade(
        contract=1,
        script="""
    CREATE TABLE handshakes (
        migration_id TEXT PRIMARY KEY,
        instance_uuid TEXT NOT NULL,
        settled INTEGER NOT NULL,
        updated_at TEXT NOT NULL,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX handshakes_instance ON handshakes (instance_uuid);
    """,
    ),
)

VERSION = len(UPGRADES)
"""The schema that this release writes."""

CONTRACT = "contract"
"""The key in ``meta`` of the oldest schema whose release may work on the file."""


class Incompatible(Exception):
    """This release can't work on the state file. The file is as it was."""


class TooNew(Incompatible):
    """A later release wrote it, and has taken away or changed what this one needs."""


class UpgradeFailed(Incompatible):
    """Its contents don't fit the new tables."""


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring the file behind ``connection`` to :data:`VERSION`, each upgrade in a transaction.

    A file of a later release stays as it is, and is worked on if its contract lets this one.

    :raises TooNew: if it does not
    :raises UpgradeFailed: if an upgrade is at odds with what is in the file
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        _check_contract(connection, found)
        LOG.warning("a later release wrote the state file (schema %d); this one knows %d", found, VERSION)
    for number, one in enumerate(UPGRADES[found:], start=found + 1):
        _apply(connection, number, one)


def _check_contract(connection: sqlite3.Connection, found: int) -> None:
    row = None
    with contextlib.suppress(sqlite3.OperationalError):
        row = connection.execute("SELECT value FROM meta WHERE key = ?", (CONTRACT,)).fetchone()
    contract = int(row[0]) if row else found
    if not may_work_on(found, contract):
        raise TooNew(
            f"the state file has schema {found} and needs a release that knows schema {contract}; "
            f"this one knows {VERSION}: install the later release again"
        )


def may_work_on(found: int, contract: int) -> bool:
    """Return whether this release may work on a file with the schema ``found`` and that contract."""
    return found <= VERSION or contract <= VERSION


def _apply(connection: sqlite3.Connection, number: int, one: Upgrade) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(one.script):
            connection.execute(statement)
        connection.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (CONTRACT, str(one.contract))
        )
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT):
            raise UpgradeFailed(f"the state file can't be brought to schema {number}: {error}") from error
        raise  # the disk's fault, or the file is damaged


def _statements(script: str) -> list[str]:
    """Split a script at its semicolons, as far as those end a statement."""
    found, rest = list[str](), ""
    for part in script.split(";"):
        rest += part + ";"
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return [statement for statement in found if statement.strip(" \n;")]

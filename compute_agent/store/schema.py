# SPDX-License-Identifier: Apache-2.0
"""The tables, and how an older state file becomes a current one.

A release first adds what it needs and still writes what the release before reads; only a
later one takes away. So the release before can open this one's file. Entries of
:data:`UPGRADES` are never changed once they have landed.
"""

import sqlite3

UPGRADES: tuple[str, ...] = (
    """
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
)

VERSION = len(UPGRADES)
"""The schema that this release writes."""


class TooNew(Exception):
    """The file was written by a release whose schema this one can't read."""


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring the file behind ``connection`` to :data:`VERSION`, each upgrade in a transaction.

    :raises TooNew: if it is more than one release ahead
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION + 1:
        raise TooNew(f"the state file has schema {found}, this release knows {VERSION}")
    for number, script in enumerate(UPGRADES[found:], start=found + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")

# SPDX-License-Identifier: Apache-2.0
"""Opening a state file: for its owner only, with a log, each commit on the disk before it is answered."""

import contextlib
import logging
import os
import sqlite3
import time

LOG = logging.getLogger(__name__)


def connect(path: str) -> sqlite3.Connection:
    """Open the file at ``path``; it is made if there is none.

    :raises OSError: if it can't be opened
    :raises sqlite3.DatabaseError: if it is damaged, or its log can't be made
    """
    # It holds secrets until their operations end. SQLite gives its other files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.chmod(path, 0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 1000")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # the default of Debian's build only
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def check(path: str) -> None:
    """Read through the file at ``path``.

    :raises sqlite3.DatabaseError: if it is damaged
    """
    with contextlib.closing(connect(path)) as connection:
        started = time.monotonic()
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        LOG.debug("state file checked in %.3f s", time.monotonic() - started)
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)

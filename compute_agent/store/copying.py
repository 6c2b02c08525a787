# SPDX-License-Identifier: Apache-2.0
"""Consistent copies of a state file, also of one that an agent writes to meanwhile.

SQLite's own backup reads all of it at one moment and holds up no writer. A copy made to be kept is branded:
put back, it is known as a copy whatever else is lost, and nothing in it is done again (see
:mod:`~compute_agent.store.rewound`). It has none of the secrets that callers sent.
"""

import contextlib
import os
import pathlib
import sqlite3
from collections.abc import Callable

from compute_agent.store import rewound, schema
from compute_agent.store.database import Transaction

STATE_FILE = "state.db"
PART = ".part"
ENDINGS = ("-journal", "-wal", "-shm", "")
"""Of the names of the files that are one state file, in the order in which they may go: it is the last."""


def backup(state_path: str | pathlib.Path, to: str | pathlib.Path) -> pathlib.Path:
    """Write a branded copy of the state file below ``state_path`` to ``to``, for its owner only.

    :param to: a new file, or a directory, in which it gets the state file's name
    :return: where it is
    :raises FileExistsError: if there is something already
    :raises FileNotFoundError: if there is no state file
    :raises OSError: if it can't be written
    :raises sqlite3.Error: if the state file can't be read, or the copy not be written
    :raises schema.Incompatible: if it is a later release's
    """
    target = pathlib.Path(to)
    if target.is_dir():
        target = target / STATE_FILE
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    copy(pathlib.Path(state_path) / STATE_FILE, target, rewound.brand)
    return target


def copy(source: pathlib.Path, target: pathlib.Path, change: Callable[[Transaction], object]) -> None:
    """Copy a state file, changed before anybody sees it. The copy is whole and on the disk, or not there.

    :param source: open or not, in this process or another
    :param target: one that is there is replaced
    :param change: what to write to the copy
    :raises FileNotFoundError: if there is no such state file
    :raises OSError: if the copy can't be made
    :raises sqlite3.Error: if the one can't be read, or the other not be written
    :raises schema.Incompatible: if this release can't work on it
    """
    if not source.is_file():
        raise FileNotFoundError(f"there is no state file {source}")
    part = target.with_name(target.name + PART)
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _write(source, part, change)
        part.rename(target)
        _sync(target.parent)
    finally:
        for ending in ENDINGS:
            part.with_name(part.name + ending).unlink(missing_ok=True)


def _write(source: pathlib.Path, part: pathlib.Path, change: Callable[[Transaction], object]) -> None:
    uri = f"{source.resolve().as_uri()}?mode=rw"  # read-only, it would leave its log behind
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as reader,
        contextlib.closing(sqlite3.connect(part, isolation_level=None)) as writer,
    ):
        reader.backup(writer)
        schema.upgrade(writer)  # the agent may still be one of the release before
        # One file, without what was deleted from it.
        writer.execute("PRAGMA journal_mode = DELETE")
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute("PRAGMA secure_delete = ON")
        writer.execute("BEGIN IMMEDIATE")
        change(Transaction(writer, None))
        writer.execute("COMMIT")
        writer.execute("VACUUM")


def _sync(directory: pathlib.Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

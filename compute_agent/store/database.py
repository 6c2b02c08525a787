# SPDX-License-Identifier: Apache-2.0
"""The state file itself: opening it, writing in groups, reading beside the writer.

Every write is a function of a :class:`Transaction`. Functions that have gathered share one
commit with full sync, so that durability costs one disk flush per group; each stands in a
savepoint of its own, so that one that fails takes no other with it. A caller is answered
after the commit and never before.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from compute_agent import concurrency, failpoints
from compute_agent.model import errors
from compute_agent.model.event import Event
from compute_agent.store import schema

LOG = logging.getLogger(__name__)

T = TypeVar("T")

FULL_CODES = frozenset({sqlite3.SQLITE_FULL})
RETRY_S = 1.0


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who writes: these three stand in every event.

    ``host_id`` belongs to the state directory; ``epoch`` changes when the state was lost.
    """

    host: str
    host_id: str
    epoch: str


class Transaction:
    """What a write function works with: statements, and whose state it is."""

    def __init__(self, connection: sqlite3.Connection, identity: Identity | None) -> None:
        self._connection = connection
        self._identity = identity
        self.told: list[Event] = []
        """The events that were written, in order."""

    @property
    def identity(self) -> Identity:
        """Who writes."""
        assert self._identity is not None, "the store has not been given its identity"
        return self._identity

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(statement, parameters)

    def row(self, statement: str, *parameters: Any) -> Any:
        """Return the first row, or None."""
        return self.execute(statement, *parameters).fetchone()

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        """Return all rows."""
        return self.execute(statement, *parameters).fetchall()


class Pending(Generic[T]):
    """A write on its way; :meth:`wait` returns when it is durable."""

    def __init__(self, function: Callable[[Transaction], T], owed: bool = False) -> None:
        self.function = function
        self.owed = owed
        self.ended = concurrency.Event()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.told: list[Event] = []

    def wait(self) -> T:
        """Return what the function returned, after the commit.

        :raises DiskFull: if there is no room for the commit; nothing was written
        :raises Internal: if the file can't be written; nothing was written
        """
        self.ended.wait()
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class _Settled:
    """Writes that were committed or have failed, and whether others are still owed."""

    writes: list[Pending[Any]]
    owing: bool


class Store:
    """The open state file.

    :param path: of the file; it is made if there is none
    :raises sqlite3.DatabaseError: if the file is damaged
    :raises schema.Incompatible: if this release can't work on it
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.identity: Identity | None = None
        self.on_events: Callable[[list[Event]], object] = lambda events: None
        self._connection = _connect(path)
        schema.upgrade(self._connection)
        self._reader = _connect(path)
        self._reader.execute("PRAGMA query_only = 1")
        self._readers = concurrency.NativePool("store-read", 1)
        self._owed: list[Pending[Any]] = []
        self._trying_again = False
        self._last: Pending[None] | None = None
        self._closed = False
        self._inbox: concurrency.Inbox[_Settled] = concurrency.Inbox(self._settle)
        self._worker: concurrency.BatchWorker[Pending[Any]] = concurrency.BatchWorker("store", self._commit)

    def submit(self, function: Callable[[Transaction], T], *, owed: bool = False) -> Pending[T]:
        """Hand in a write and go on; writes are done in the order in which they were handed in.

        :param owed: it must not get lost: while the disk does not take it, it is tried again, and no
            later write comes before it
        """
        pending = Pending(function, owed)
        self._worker.put(pending)
        return pending

    def write(self, function: Callable[[Transaction], T]) -> T:
        """Run ``function`` in a transaction and return when it is durable. Raises as `Pending.wait`."""
        return self.submit(function).wait()

    def insist(self, function: Callable[[Transaction], T]) -> T:
        """As :meth:`write`, for what must not get lost: returns when the disk has taken it."""
        return self.submit(function, owed=True).wait()

    def read(self, function: Callable[[Transaction], T]) -> T:
        """Run ``function``, which only reads, on all that is committed at one moment."""
        return self._readers.call(self._read, function)

    def _read(self, function: Callable[[Transaction], T]) -> T:
        self._reader.execute("BEGIN")
        try:
            return function(Transaction(self._reader, self.identity))
        finally:
            self._reader.execute("ROLLBACK")

    def close(self) -> None:
        """Commit what was handed in, and close the file; its log, which may hold secrets, goes then.

        Each connection is closed in the thread that uses it: SQLite crashes otherwise.
        """
        self._last = Pending(_nothing)
        self._worker.put(self._last)
        try:
            self._last.wait()
        except errors.ComputeError as error:
            LOG.error("%d writes are lost with the end of the agent: %s", len(self._owed), error)
        self._worker.close()
        self._readers.call(self._reader.close)
        self._readers.close()
        self._inbox.close()

    # --- in the native thread ---------------------------------------------------------------------

    def _commit(self, batch: list[Pending[Any]]) -> None:
        if self._closed:
            for pending in batch:
                pending.error = errors.Internal("the state file is closed")
            self._inbox.put(_Settled(batch, owing=False))
            return
        owed, self._owed = self._owed, []
        if owed:
            self._commit_group(owed)
        if self._owed:  # still: nothing may come before it
            self._fail(batch, self._owed[0].error)
        else:
            self._commit_group(batch)
        if self._last in batch:
            self._connection.close()
            self._closed = True
        settled = [pending for pending in (*owed, *batch) if pending not in self._owed]
        self._inbox.put(_Settled(settled, owing=bool(self._owed)))

    def _commit_group(self, batch: list[Pending[Any]]) -> None:
        try:
            failpoints.hit("store.commit.before")
            self._connection.execute("BEGIN IMMEDIATE")
            for pending in batch:
                self._apply(pending)
            failpoints.hit("store.commit.inside")
            self._connection.execute("COMMIT")
            failpoints.hit("store.commit.after")
        except Exception as error:
            LOG.error("the state file %s can't be written: %s", self.path, error)
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            self._fail(batch, _typed(error))

    def _apply(self, pending: Pending[Any]) -> None:
        self._connection.execute("SAVEPOINT one")
        transaction = Transaction(self._connection, self.identity)
        try:
            pending.error = None
            pending.result = pending.function(transaction)
            pending.told = transaction.told
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise  # the disk, not the function: the whole group fails
            pending.error = error
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")

    def _fail(self, batch: list[Pending[Any]], error: BaseException | None) -> None:
        for pending in batch:
            pending.error = error
        self._owed += [pending for pending in batch if pending.owed]

    # --- on the hub ---------------------------------------------------------------------------------

    def _settle(self, settled: _Settled) -> None:
        for pending in settled.writes:
            pending.ended.set()
        if settled.owing and not self._trying_again:
            self._trying_again = True
            concurrency.spawn(self._try_again)
        told = [event for pending in settled.writes if pending.error is None for event in pending.told]
        if told:
            self.on_events(told)

    def _try_again(self) -> None:
        concurrency.sleep(RETRY_S)
        self._trying_again = False
        self.submit(lambda tx: None)


def _nothing(tx: Transaction) -> None:
    """Write nothing."""


def _connect(path: str) -> sqlite3.Connection:
    # It holds secrets until their operations end. SQLite gives its other files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.chmod(path, 0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 1000")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # the default of Debian's build only
    return connection


def _typed(error: Exception) -> errors.ComputeError:
    code = getattr(error, "sqlite_errorcode", None)
    no_room = code in FULL_CODES or getattr(error, "errno", None) == errno.ENOSPC
    failing = code is not None and code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
    if no_room or failing:
        return errors.DiskFull(f"the state file can't be written: {error}", retry_after_s=RETRY_S)
    return errors.Internal(f"the state file can't be written: {error}")


def check(path: str) -> None:
    """Read through the file at ``path``.

    :raises sqlite3.DatabaseError: if it is damaged
    """
    connection = _connect(path)
    try:
        started = time.monotonic()
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        LOG.debug("state file checked in %.3f s", time.monotonic() - started)
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
    finally:
        connection.close()

# SPDX-License-Identifier: Apache-2.0
"""The state file itself: opening it, writing in groups, reading beside the writer.

Every write is a function of a :class:`Transaction`. Functions that have gathered share one
commit with full sync, so that durability costs one disk flush per group; each stands in a
savepoint of its own, so that one that fails takes no other with it. A caller is answered
after the commit and never before.

When the disk is full, what is owed is written with the help of a reserve, which is then given up. Until there
is room for it again, nothing new is taken on (:meth:`Store.take_on`).
"""

import contextlib
import dataclasses
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from compute_agent import concurrency, failpoints
from compute_agent.model import errors
from compute_agent.model.event import Event
from compute_agent.store import faults, schema
from compute_agent.store.connection import connect
from compute_agent.store.reserve import Reserve

LOG = logging.getLogger(__name__)

T = TypeVar("T")

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

    @identity.setter
    def identity(self, identity: Identity) -> None:
        self._identity = identity

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
    """Writes that were committed or have failed; why the last did; whether the reserve is in use."""

    writes: list[Pending[Any]]
    problem: str | None = None
    short: bool = False


class Store:
    """The open state file.

    :param path: of the file; it is made if there is none
    :param reserve: the room that is kept for what is owed
    :ivar roomy: set while nothing speaks against beginning something new
    :ivar problem: why the file can't be written; None while it can
    :ivar told_seq: the ``seq`` of the newest event that was written since it was opened
    :raises OSError: if it can't be opened
    :raises sqlite3.DatabaseError: if the file is damaged
    :raises schema.Incompatible: if this release can't work on it
    """

    def __init__(self, path: str, reserve: Reserve | None = None) -> None:
        self.path = path
        self.reserve = reserve
        self.roomy = concurrency.Event()
        self.problem: str | None = None
        self.told_seq = 0
        self.identity: Identity | None = None
        self.on_events: Callable[[list[Event]], object] = lambda events: None
        with contextlib.ExitStack() as unless_it_opens:
            self._connection = unless_it_opens.enter_context(contextlib.closing(connect(path)))
            schema.upgrade(self._connection)
            self._reader = unless_it_opens.enter_context(contextlib.closing(connect(path)))
            self._reader.execute("PRAGMA query_only = 1")
            unless_it_opens.pop_all()
        self._readers = concurrency.NativePool("store-read", 1)
        self._owed: list[Pending[Any]] = []
        self._trying_again = False
        self._last: Pending[None] | None = None
        self._closed = False
        self._failing: str | None = None
        self.roomy.set()
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

    def take_on(self, function: Callable[[Transaction], T]) -> T:
        """As :meth:`write`, for something new: it is refused while only the reserve is left, or less.

        :raises DiskFull: also then
        """
        if self._is_short():
            raise errors.DiskFull("the state disk is full: what has begun may end", retry_after_s=RETRY_S)
        return self.write(function)

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
            self._inbox.put(_Settled(batch))
            return
        if self.reserve is not None and self.reserve.take_again():
            LOG.info("there is room on the state disk again")
        owed, self._owed = self._owed, []
        if owed:
            self._commit_group(owed)
        if self._owed:  # still: nothing may come before it
            self._fail(batch, self._owed[0].error)
        else:
            self._commit_group(batch)
        self._draw_on_reserve()
        if self._last in batch:
            self._connection.close()
            self._closed = True
        settled = [pending for pending in (*owed, *batch) if pending not in self._owed]
        self._inbox.put(_Settled(settled, self._failing, self._is_short()))

    def _draw_on_reserve(self) -> None:
        """Write what is owed with the room of the reserve, if the disk does not take it otherwise."""
        full = bool(self._owed) and isinstance(self._owed[0].error, errors.DiskFull)
        if full and self.reserve is not None and self.reserve.give_up():
            LOG.error("the state disk takes no more: the reserve is given up for what has begun")
            owed, self._owed = self._owed, []
            self._commit_group(owed)

    def _is_short(self) -> bool:
        """Whether the reserve is in use."""
        return self.reserve is not None and not self.reserve.held

    def _commit_group(self, batch: list[Pending[Any]]) -> None:
        try:
            failpoints.hit("store.commit.before")
            self._connection.execute("BEGIN IMMEDIATE")
            for pending in batch:
                self._apply(pending)
            failpoints.hit("store.commit.inside")
            self._connection.execute("COMMIT")
            failpoints.hit("store.commit.after")
            if self._failing is not None:
                LOG.info("the state file %s can be written again", self.path)
            self._failing = None
        except Exception as error:
            level = logging.ERROR if self._failing is None else logging.DEBUG  # one line per outage
            LOG.log(level, "the state file %s can't be written: %s", self.path, error)
            self._failing = str(faults.typed(error, RETRY_S))
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            self._fail(batch, faults.typed(error, RETRY_S))

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
        self.problem = settled.problem
        if settled.short:
            self.roomy.clear()
        else:
            self.roomy.set()
        if (settled.problem is not None or settled.short) and not self._trying_again:
            self._trying_again = True
            concurrency.spawn(self._try_again)
        told = [event for pending in settled.writes if pending.error is None for event in pending.told]
        if told:
            self.told_seq = told[-1].seq or self.told_seq
            self.on_events(told)

    def _try_again(self) -> None:
        concurrency.sleep(RETRY_S)
        self._trying_again = False
        self.submit(touch)


def touch(tx: Transaction) -> None:
    """Write something that changes nothing, to see whether it can be written."""
    tx.execute("UPDATE meta SET value = value")


def _nothing(tx: Transaction) -> None:
    """Write nothing."""

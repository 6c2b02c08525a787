# SPDX-License-Identifier: Apache-2.0
"""The state directory: whose it is, who uses it now, and what to do when its file is unusable.

One agent at a time (a lock), one host for ever (a name in the file), one ``host_id`` (kept in a
file of its own too, so that it outlives a lost state file). A damaged state file and one that was put back
from a copy are kept aside, never overwritten; the new one begins a new epoch and is filled from the domains.
What is around the file (room, a failing disk) is no reason to make a new one: that is waited for. A kill at
any instant of all this loses nothing more, and the loss is told once.
"""

import contextlib
import dataclasses
import fcntl
import logging
import os
import pathlib
import sqlite3
from typing import Any

from compute_agent import concurrency
from compute_agent.model import clock, errors
from compute_agent.model.event import Cause, EventType
from compute_agent.store import copying, faults, host, outbox, rewound
from compute_agent.store.connection import check
from compute_agent.store.copying import STATE_FILE
from compute_agent.store.database import Store, Transaction
from compute_agent.store.mark import MARK_FILE, Mark, Progress
from compute_agent.store.reserve import MIB, RESERVE_FILE, Reserve

LOG = logging.getLogger(__name__)

LOCK_FILE = "lock"
HOST_ID_FILE = "host_id"
NEW = ".new"
"""Behind the name of a file that is whole and about to take another's place."""
CLEAN = "clean"
"""Whether the last run ended in good order; not set in a file that is not begun."""
RUN = "run"
"""How many runs of an agent the file has seen."""
RESET = "state_reset"
"""Set while a new state file waits to be filled from the domains' descriptions."""

NOT_RECOVERED = ["queued operations", "operation history and ids", "security group rules", "the host's flags"]
TROUBLE = (sqlite3.Error, OSError, errors.DiskFull)
NAMED = 1000
"""How many interrupted operations an event names at most."""


class Unusable(Exception):
    """The state directory can't be used by this agent; the message says why and what to do."""


class NotNow(Exception):
    """The disk is full, read-only or failing, or somebody holds the file: to be tried again later."""


@dataclasses.dataclass(frozen=True)
class Reset:
    """Why the file is a new one, and what did not come back."""

    reason: str
    not_recovered: list[str]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class StateDirectory:
    """The directory, locked for this agent.

    :param path: of the directory; it is made, readable by its owner only
    :param reserve: bytes that are kept for what must be written when the disk is full
    :raises Unusable: if another agent uses it, or it can't be made
    :raises NotNow: if it can't be made now
    """

    def __init__(self, path: str, reserve: int = 0) -> None:
        self.path = pathlib.Path(path)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in faults.PASSING:
                raise NotNow(f"state_path {path}: {error.strerror}") from error
            raise Unusable(f"state_path {path} can't be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Unusable(f"state_path {path} is in use by another agent on this host") from None
        self._reserve = Reserve(self.path / RESERVE_FILE, reserve)
        self._mark = Mark(self.path / MARK_FILE)
        self._run = 0
        self._files = concurrency.NativePool("state-files", 1)

    def open(self, host_name: str) -> Store:
        """Open the state file as ``host_name``'s.

        :raises Unusable: if it was made for another host, or there is no right to it
        :raises NotNow: if it can't be opened now; to be called again
        :raises schema.Incompatible: if this release can't work on the file
        """
        try:
            try:
                return self._open(host_name)
            except TROUBLE as error:
                if not (faults.is_passing(error) and self._reserve.give_up()):
                    raise
                return self._open(host_name)
        except TROUBLE as error:
            problem = f"the state file {self.path / STATE_FILE} can't be opened: {error}"
            raise (NotNow if faults.is_passing(error) else Unusable)(problem) from error

    def _open(self, host_name: str) -> Store:
        self._reserve.take_again()
        noted = self._mark.read()
        store, reset = self._open_or_replace(host_name, noted)
        try:
            self._make_ours(store, host_name, reset, noted)
        except BaseException:
            store.close()
            raise
        return store

    def _make_ours(self, store: Store, host_name: str, reset: Reset | None, noted: Progress) -> None:
        host_id = self._host_id()
        store.identity = store.write(lambda tx: host.identify(tx, host_name, host_id))
        if store.identity.host != host_name:
            raise Unusable(
                f"state_path {self.path} was made for host {store.identity.host}, not {host_name}: "
                "set [DEFAULT] host back, or give this agent another state_path"
            )
        progress = store.write(lambda tx: _begin(tx, reset, noted))
        self._keep_host_id(store.identity.host_id)
        self._run, store.told_seq = progress.run, progress.seq
        self._mark.write(progress, sync=True)

    def close(self, store: Store) -> None:
        """Close the state file in good order and release the directory.

        :raises ComputeError: if the disk does not take the last word; the file is closed all the same
        """
        try:
            store.write(lambda tx: host.put(tx, CLEAN, "1"))
        finally:
            store.close()
            self.note_progress(store, sync=True)
            self._files.close()
            os.close(self._lock)

    def note_progress(self, store: Store, *, sync: bool = False) -> None:
        """Note how far the file has come; to be called every second or so."""
        progress = Progress(self._run, store.told_seq)
        self._files.call(lambda: self._mark.write(progress, sync=sync))

    def free_mib(self) -> int:
        """Return the room on the disk.

        :raises OSError: if the disk does not say
        """
        disk = self._files.call(os.statvfs, self.path)
        return disk.f_bavail * disk.f_frsize // MIB

    def _open_or_replace(self, host_name: str, noted: Progress) -> tuple[Store, Reset | None]:
        """Return the open file; with what is to be told, if it is a new one and should not be."""
        path = self.path / STATE_FILE
        self._end_replacing()
        try:
            store = Store(str(path), self._reserve)
            put_back = self._look_through(store, host_name, noted)
        except sqlite3.DatabaseError as error:
            if not faults.is_damage(error):
                raise
            LOG.error("the state file %s is damaged (%s): it is kept aside, and made anew", path, error)
            self._set_aside("damaged")
            return Store(str(path), self._reserve), Reset(f"damaged: {error}", NOT_RECOVERED)
        if put_back is not None:
            LOG.error("the state file %s was put back (%s): it is kept aside, and made anew", path, put_back)
            store.close()
            self._replace(host_name, noted, put_back)
            return Store(str(path), self._reserve), None
        lost = store.read(_is_new) and (self.path / HOST_ID_FILE).exists()
        return store, Reset("missing", NOT_RECOVERED) if lost else None

    def _look_through(self, store: Store, host_name: str, noted: Progress) -> str | None:
        """Say how the file shows that it was put back; None if it does not.

        :raises sqlite3.Error: if it is damaged, or can't be read; it is closed then
        """
        try:
            if store.read(lambda tx: host.get(tx, CLEAN)) != "1":
                check(store.path)
            return store.read(lambda tx: _put_back(tx, host_name, noted))
        except BaseException:
            store.close()
            raise

    def _replace(self, host_name: str, noted: Progress, put_back: str) -> None:
        """Put a new file, made of what still holds in one that was put back, in its place."""
        path = self.path / STATE_FILE
        host_id = self._host_id()

        def begin(tx: Transaction) -> None:
            interrupted = rewound.begin_anew(tx)
            if host_id is not None:  # else the copy's
                host.put(tx, "host_id", host_id)
            tx.identity = host.identify(tx, host_name)
            details = {
                "found": put_back,
                "interrupted": interrupted[:NAMED],
                "interrupted_count": len(interrupted),
            }
            _begin(tx, Reset("rewound", rewound.NOT_RECOVERED, details), noted)

        copying.copy(path, path.with_name(STATE_FILE + NEW), begin)
        self._set_aside("rewound")
        self._end_replacing()

    def _end_replacing(self) -> None:
        """Go on where a new file was about to take the place of one that was kept aside."""
        path = self.path / STATE_FILE
        with contextlib.suppress(FileNotFoundError):
            if path.exists():
                path.with_name(STATE_FILE + NEW).unlink()
            else:
                path.with_name(STATE_FILE + NEW).rename(path)

    def _set_aside(self, why: str) -> None:
        suffix = clock.now().strftime(f"{why}-%Y%m%dT%H%M%S.%f")
        for ending in copying.ENDINGS:
            source = self.path / (STATE_FILE + ending)
            with contextlib.suppress(FileNotFoundError):
                source.rename(f"{source}.{suffix}")

    def _host_id(self) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.path / HOST_ID_FILE).read_text().strip() or None
        return None

    def _keep_host_id(self, host_id: str) -> None:
        if self._host_id() == host_id:
            return
        temporary = self.path / (HOST_ID_FILE + NEW)
        temporary.write_text(host_id + "\n")
        temporary.rename(self.path / HOST_ID_FILE)


def _put_back(tx: Transaction, host_name: str, noted: Progress) -> str | None:
    """Say how the file shows that it is an older copy; None if it does not, is new, or another host's."""
    if host.get(tx, "host") != host_name:
        return None
    copied = host.get(tx, rewound.COPIED)
    if copied is not None:
        return f"a copy made at {copied}"
    found = _progress(tx)
    if found < noted and not _is_new(tx):
        return f"at run {found.run}, event {found.seq}, after run {noted.run}, event {noted.seq}"
    return None


def _is_new(tx: Transaction) -> bool:
    """Whether no agent has begun with the file; one that was made is begun in the commit that tells of it."""
    return host.get(tx, CLEAN) is None


def _progress(tx: Transaction) -> Progress:
    return Progress(int(host.get(tx, RUN) or 0), outbox.last_seq(tx))


def _begin(tx: Transaction, reset: Reset | None, noted: Progress) -> Progress:
    """Note that the file is in use; tell if it had to be made anew. Return how far it is now."""
    if _is_new(tx):
        host.put(tx, RESET, reset.reason if reset else "new")
    host.put(tx, CLEAN, "0")
    host.put(tx, RUN, str(max(_progress(tx).run, noted.run) + 1))
    if reset is not None:
        data = {"reason": reset.reason, "epoch": tx.identity.epoch, "not_recovered": reset.not_recovered}
        outbox.append(tx, EventType.HOST_STATE_RESET, cause=Cause.HOST, data=data | reset.details)
    return _progress(tx)

# SPDX-License-Identifier: Apache-2.0
"""The state directory: whose it is, who uses it now, and what to do when its file is unusable.

One agent at a time (a lock), one host for ever (a name in the file), one ``host_id`` (kept in a
file of its own too, so that it outlives a lost state file). A damaged state file is kept
aside, never overwritten; the new one begins a new epoch and is filled from the domains.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import sqlite3

from compute_agent.model import clock
from compute_agent.model.event import Cause, EventType
from compute_agent.store import host, outbox
from compute_agent.store.database import Store, Transaction, check

LOG = logging.getLogger(__name__)

STATE_FILE = "state.db"
LOCK_FILE = "lock"
HOST_ID_FILE = "host_id"
CLEAN = "clean"
RESET = "state_reset"
"""Set while a new state file waits to be filled from the domains' descriptions."""

NOT_RECOVERED = ["queued operations", "operation history and ids", "security group rules", "the host's flags"]


class Unusable(Exception):
    """The state directory can't be used by this agent; the message says why and what to do."""


class StateDirectory:
    """The directory, locked for this agent.

    :param path: of the directory; it is made, readable by its owner only
    :raises Unusable: if another agent uses it, or it can't be made
    """

    def __init__(self, path: str) -> None:
        self.path = pathlib.Path(path)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unusable(f"state_path {path} can't be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Unusable(f"state_path {path} is in use by another agent on this host") from None

    def open(self, host_name: str) -> Store:
        """Open the state file as ``host_name``'s.

        :raises Unusable: if it was made for another host, or can't be opened now (no room, no right, in use)
        :raises schema.Incompatible: if this release can't work on the file
        """
        store, reset = self._open_or_replace()
        store.identity = store.write(lambda tx: host.identify(tx, host_name, self._host_id()))
        if store.identity.host != host_name:
            made_for = store.identity.host
            store.close()
            raise Unusable(
                f"state_path {self.path} was made for host {made_for}, not {host_name}: "
                "set [DEFAULT] host back, or give this agent another state_path"
            )
        self._keep_host_id(store.identity.host_id)
        store.write(lambda tx: _begin(tx, reset))
        return store

    def close(self, store: Store) -> None:
        """Close the state file in good order and release the directory."""
        store.write(lambda tx: host.put(tx, CLEAN, "1"))
        store.close()
        os.close(self._lock)

    def _open_or_replace(self) -> tuple[Store, str | None]:
        """Return the open file; with why it is a new one, if it should not be."""
        path = self.path / STATE_FILE
        existed = path.exists()
        try:
            store = Store(str(path))
            if existed and store.read(lambda tx: host.get(tx, CLEAN)) != "1":
                check(str(path))
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise Unusable(f"the state file {path} can't be opened: {error}") from error
            LOG.error("the state file %s is damaged (%s): it is kept aside, and made anew", path, error)
            self._set_aside()
            return Store(str(path)), f"damaged: {error}"
        lost = not existed and (self.path / HOST_ID_FILE).exists()
        return store, "missing" if lost else None

    def _set_aside(self) -> None:
        suffix = clock.now().strftime("damaged-%Y%m%dT%H%M%S")
        for ending in ("", "-wal", "-shm"):
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
        temporary = self.path / (HOST_ID_FILE + ".new")
        temporary.write_text(host_id + "\n")
        temporary.rename(self.path / HOST_ID_FILE)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is at fault, and not what is around it: room, rights, another process."""
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_IOERR_SHORT_READ or not isinstance(error, sqlite3.OperationalError)


def _begin(tx: Transaction, reset: str | None) -> None:
    """Note that the file is in use; tell if it had to be made anew."""
    if host.get(tx, CLEAN) is None:
        host.put(tx, RESET, reset or "new")
    host.put(tx, CLEAN, "0")
    if reset is not None:
        data = {"reason": reset, "epoch": tx.identity.epoch, "not_recovered": NOT_RECOVERED}
        outbox.append(tx, EventType.HOST_STATE_RESET, cause=Cause.HOST, data=data)

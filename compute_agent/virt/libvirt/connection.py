# SPDX-License-Identifier: Apache-2.0
"""Connections to libvirt, as the native threads see them.

Two traits of libvirt's client, both measured, shape this module:

* a connection serves five calls at a time, so five hung guests would stop all others on it;
* when keepalive closes a connection on which several threads wait, only one of them is
  woken, and the process may crash later.

So a connection carries **one call at a time**: it is taken, used and given back, and there are
as many as there are calls under way. Only the event connection lives for long; no call but the
registration goes over it. Nothing here touches the hub, except through :class:`Inbox`.
"""

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import libvirt

from compute_agent import concurrency
from compute_agent.virt.libvirt import faults, states
from compute_agent.virt.libvirt.signals import DeviceSignal, JobSignal, Signal

LOG = logging.getLogger(__name__)

T = TypeVar("T")

KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
"""A libvirtd that does not answer is given up after (count + 1) intervals."""
IDLE_LIMIT = 4
"""Connections kept for the next call, per pool."""


@dataclasses.dataclass(frozen=True)
class RawEvent:
    """A lifecycle event as libvirt tells it."""

    uuid: str
    event: int
    detail: int


@dataclasses.dataclass(frozen=True)
class Closed:
    """An event connection closed; ``serial`` says which, ``reason`` is libvirt's number."""

    serial: int
    reason: int


@dataclasses.dataclass(frozen=True)
class Flush:
    """Comes out of the inbox after all that was put before it."""

    passed: concurrency.Event


Item = RawEvent | Signal | Closed | Flush

_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "an error on the connection",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "libvirtd ended",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "libvirtd does not answer",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "closed by us",
}
_loop_started: list[bool] = []


def close_reason(number: int) -> str:
    """Return in words why a connection closed."""
    return _CLOSE_REASONS.get(number, f"reason {number}")


def start_event_loop() -> None:
    """Start libvirt's event loop in a thread of its own, once per process, before any connection."""
    if _loop_started:
        return
    _loop_started.append(True)
    libvirt.registerErrorHandler(_ignore, None)  # else each error goes to stderr as well
    libvirt.virEventRegisterDefaultImpl()
    concurrency.start_native_thread(_run_event_loop, "libvirt-events")


def _ignore(_context: Any, _error: Any) -> None:
    pass


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def connect(uri: str) -> libvirt.virConnect:
    """Open a connection that notices when its other end hangs. In a native thread.

    :raises ConnectionLost: if libvirt can't be reached
    """
    try:
        # With callbacks of its own: the default ones would ask for a password on the terminal.
        connection = libvirt.openAuth(uri, [[], None, None], 0)
    except libvirt.libvirtError as error:
        raise faults.ConnectionLost(str(error)) from error
    with contextlib.suppress(libvirt.libvirtError):  # a driver without a daemon has no keepalive
        connection.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
    return connection


def disconnect(connection: libvirt.virConnect) -> None:
    """Close a connection, whatever state it is in. In a native thread."""
    with contextlib.suppress(libvirt.libvirtError):
        connection.close()


class Connections:
    """Connections that are free to take. Used by the native threads of one pool, without locks."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._idle: collections.deque[libvirt.virConnect] = collections.deque()

    def use(self, function: Callable[[libvirt.virConnect], T]) -> T:
        """Call ``function`` with a connection that nobody else uses.

        :raises ConnectionLost: if it broke
        :raises libvirtError: what else ``function`` raised
        """
        with self._taken() as connection:
            return function(connection)

    def drop_idle(self) -> None:
        """Close what is not in use."""
        with contextlib.suppress(IndexError):
            while True:
                disconnect(self._idle.pop())

    @contextlib.contextmanager
    def _taken(self) -> Iterator[libvirt.virConnect]:
        connection = self._take()
        try:
            yield connection
        except libvirt.libvirtError as error:
            if faults.is_lost(error):
                disconnect(connection)
                raise faults.ConnectionLost(str(error)) from error
            self._give_back(connection)
            raise
        except BaseException:
            self._give_back(connection)
            raise
        else:
            self._give_back(connection)

    def _take(self) -> libvirt.virConnect:
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.isAlive() == 1:  # known here; libvirtd is not asked
                    return connection
                disconnect(connection)
        return connect(self._uri)

    def _give_back(self, connection: libvirt.virConnect) -> None:
        if len(self._idle) < IDLE_LIMIT:
            self._idle.append(connection)
        else:
            disconnect(connection)


class EventConnection:
    """The connection that events come over. Its methods run in a native thread, one at a time.

    :param inbox: where lifecycle events and the end of the connection go
    """

    def __init__(self, uri: str, inbox: concurrency.Inbox[Item]) -> None:
        self._uri = uri
        self._inbox = inbox
        self._connection: libvirt.virConnect | None = None
        self._callbacks: list[int] = []
        self.serial = 0

    def open(self) -> dict[str, int]:
        """Connect, register for events, then read what state (libvirt's number) each domain is in.

        :raises ConnectionLost: if that did not work
        """
        self.close()
        self.serial += 1
        connection = connect(self._uri)
        try:
            self._register(connection)
            found = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
            self._connection = connection
            return {domain.UUIDString(): _state(stats) for domain, stats in found}
        except libvirt.libvirtError as error:
            disconnect(connection)
            raise faults.ConnectionLost(str(error)) from error

    def close(self) -> None:
        """Leave. No event comes after this returned."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        for callback in self._callbacks:
            with contextlib.suppress(libvirt.libvirtError):
                connection.domainEventDeregisterAny(callback)
        with contextlib.suppress(libvirt.libvirtError):
            connection.unregisterCloseCallback()
        disconnect(connection)

    def _register(self, connection: libvirt.virConnect) -> None:
        with contextlib.suppress(libvirt.libvirtError):  # nothing to close where there is no daemon
            connection.registerCloseCallback(_on_close, (self._inbox, self.serial))
        self._callbacks = [
            connection.domainEventRegisterAny(None, event, callback, self._inbox)
            for event, callback in (
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, _on_lifecycle),
                (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, _on_removed),
                (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, _on_removal_failed),
                (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, _on_block_job),
            )
        ]


def _state(stats: dict[str, Any]) -> int:
    """Return libvirt's number of a domain's state; one that was starting has yet to start."""
    state, reason = int(stats.get("state.state", 0)), int(stats.get("state.reason", 0))
    return libvirt.VIR_DOMAIN_SHUTOFF if states.is_starting(state, reason) else state


def _on_lifecycle(
    _connection: Any, domain: Any, event: int, detail: int, inbox: concurrency.Inbox[Item]
) -> None:
    inbox.put(RawEvent(domain.UUIDString(), event, detail))


def _on_removed(_connection: Any, domain: Any, alias: str, inbox: concurrency.Inbox[Item]) -> None:
    inbox.put(DeviceSignal(domain.UUIDString(), alias, removed=True))


def _on_removal_failed(_connection: Any, domain: Any, alias: str, inbox: concurrency.Inbox[Item]) -> None:
    inbox.put(DeviceSignal(domain.UUIDString(), alias, removed=False))


def _on_block_job(
    _connection: Any, domain: Any, target: str, kind: int, status: int, inbox: concurrency.Inbox[Item]
) -> None:
    inbox.put(JobSignal(domain.UUIDString(), target, kind, status))


def _on_close(_connection: Any, reason: int, opaque: tuple[concurrency.Inbox[Item], int]) -> None:
    inbox, serial = opaque
    inbox.put(Closed(serial, reason))

# SPDX-License-Identifier: Apache-2.0
"""Keeps libvirt at hand: one greenthread connects, and connects again whenever the connection is lost.

That libvirt went away is told once, that it is back once; a good start is not told. Events
come in the order in which libvirt told them, and none after :meth:`Keeper.stop`.
"""

import logging
import random
from collections.abc import Callable

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.virt.libvirt import faults
from compute_agent.virt.libvirt.connection import (
    EventConnection,
    Flush,
    Item,
    RawEvent,
    close_reason,
    start_event_loop,
)
from compute_agent.virt.libvirt.signals import Signal

LOG = logging.getLogger(__name__)

FIRST_CONNECT_S = 15.0
"""How long the start waits for libvirt before it goes on without."""
STOP_S = 2.0
"""How long the stop waits for a libvirt that may hang."""
LONGEST_BACK_OFF_S = 5.0


class Keeper:
    """The event connection of one hypervisor.

    :param on_event: told of each lifecycle event, in a greenthread
    :param on_connect: told the states of all domains whenever a connection was made, before anything
        else can see them
    :param on_change: told that libvirt went away or came back, and why
    :param on_signal: told of what happens to devices and block jobs, in a greenthread
    """

    def __init__(
        self,
        uri: str,
        *,
        on_event: Callable[[RawEvent], object],
        on_connect: Callable[[dict[str, int]], object],
        on_change: Callable[[bool, str], object],
        on_signal: Callable[[Signal], object] = lambda signal: None,
    ) -> None:
        self.uri = uri
        self.up = concurrency.Event()
        self.reason = "not connected yet"
        self.connects = 0
        self._on_event, self._on_connect, self._on_change = on_event, on_connect, on_change
        self._on_signal = on_signal
        self._opener = concurrency.NativePool("libvirt-open", 1)
        self._inbox: concurrency.Inbox[Item] | None = None
        self._events: EventConnection | None = None
        self._task: concurrency.Task | None = None
        self._lost = concurrency.Event()
        self._tried = concurrency.Event()
        self._told_down = False

    def start(self) -> bool:
        """Connect, and stay connected from now on; return whether libvirt is there already."""
        if self._task is None:
            start_event_loop()
            self._inbox = concurrency.Inbox(self._take)
            self._events = EventConnection(self.uri, self._inbox)
            self._task = concurrency.spawn(self._keep)
        if not self._tried.wait(FIRST_CONNECT_S):
            self._went_down("libvirtd takes the connection and does not answer")
        return self.up.is_set()

    def stop(self) -> None:
        """Disconnect. Events that libvirt has told are handed on first."""
        if self._task is None or self._inbox is None or self._events is None:
            return
        self._task.kill()
        self._task = None
        try:
            self._opener.call_within(STOP_S, self._events.close)
        except concurrency.TimedOut:
            LOG.warning("the event connection to libvirt could not be closed in time")
        passed = concurrency.Event()
        self._inbox.put(Flush(passed))
        passed.wait(STOP_S)
        self._inbox.close()
        self.up.clear()
        self._tried.clear()
        self._opener.close()
        self._opener = concurrency.NativePool("libvirt-open", 1)

    def _keep(self) -> None:
        while True:
            self._connect()
            self._lost.wait()

    def _connect(self) -> None:
        assert self._events is not None
        attempt = 0
        while True:
            self._lost.clear()
            try:
                # Without a limit: a libvirtd that hangs answers when it goes on, or is ended. Giving
                # up would leave one more hung thread behind with every attempt.
                states = self._opener.call(self._events.open)
                break
            except faults.ConnectionLost as lost:
                self._went_down(str(lost))
                concurrency.sleep(back_off(attempt))
                attempt += 1
        self._came_up(states)

    def _came_up(self, states: dict[str, int]) -> None:
        self.connects += 1
        self._on_connect(states)
        self.up.set()
        self._tried.set()
        if self._told_down:
            self._told_down = False
            LOG.info("libvirt is back")
            self._on_change(True, "libvirt is back")

    def _went_down(self, reason: str) -> None:
        self.reason = reason
        self.up.clear()
        self._lost.set()
        self._tried.set()
        if not self._told_down:
            self._told_down = True
            LOG.warning("libvirt is away: %s", reason)
            self._on_change(False, reason)

    def _take(self, item: Item) -> None:
        if isinstance(item, RawEvent):
            self._on_event(item)
        elif isinstance(item, Signal):
            self._on_signal(item)
        elif isinstance(item, Flush):
            item.passed.set()
        elif self._events is not None and item.serial == self._events.serial:
            self._went_down(close_reason(item.reason))


def back_off(attempt: int) -> float:
    """Return the seconds before the next attempt: growing, and never the same on two hosts."""
    base = float(CONF.libvirt.reconnect_interval)
    longest = max(base, LONGEST_BACK_OFF_S)
    return min(longest, base * 2.0 ** min(attempt, 10)) * random.uniform(0.8, 1.2)

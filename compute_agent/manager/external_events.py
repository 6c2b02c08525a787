# SPDX-License-Identifier: Apache-2.0
"""Events from outside that an operation waits for, such as ``network-vif-plugged``.

One that comes before anybody waits is kept for a while, since the sender can't know how far
the operation is.
"""

import time

from compute_agent import concurrency, steps

KEPT_S = 300.0
Key = tuple[str, str, str | None]


class ExternalEvents:
    """Who waits for what, and what came early."""

    def __init__(self) -> None:
        self._waiting: dict[Key, tuple[concurrency.Event, list[str]]] = {}
        self._early: dict[Key, tuple[float, str]] = {}

    def arrived(self, uuid: str, name: str, tag: str | None, status: str) -> bool:
        """Hand over an event; return whether somebody was waiting for it."""
        waiter = self._waiting.get((uuid, name, tag))
        if waiter is None:
            self._forget_old()
            self._early[uuid, name, tag] = (time.monotonic(), status)
            return False
        waiter[1].append(status)
        waiter[0].set()
        return True

    def wait(self, uuid: str, name: str, tag: str | None, timeout: float) -> str | None:
        """Wait for an event within the running operation; return its status, None if it did not come.

        :param timeout: in seconds
        :raises Cancelled, Timeout: as :meth:`compute_agent.steps.Work.wait`
        """
        self._forget_old()
        early = self._early.pop((uuid, name, tag), None)
        if early is not None:
            return early[1]
        event, came = concurrency.Event(), list[str]()
        self._waiting[uuid, name, tag] = (event, came)
        try:
            steps.current().wait(event, timeout)
        finally:
            del self._waiting[uuid, name, tag]
        return came[0] if came else None

    def _forget_old(self) -> None:
        border = time.monotonic() - KEPT_S
        self._early = {key: value for key, value in self._early.items() if value[0] > border}

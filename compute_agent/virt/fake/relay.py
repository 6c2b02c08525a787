# SPDX-License-Identifier: Apache-2.0
"""The way of the fake hypervisor's events: through a queue and a greenthread of their own.

As with a real hypervisor, an event is not told from where it happened. Who made it happen waits
until it was told, so that a verb's own event always comes before the verb's end.
"""

import collections
import logging
from collections.abc import Callable

from compute_agent import concurrency
from compute_agent.virt.event import Event

LOG = logging.getLogger(__name__)


class Relay:
    """Hands events on, in order.

    :param emit: takes each; called in the relay's greenthread, which lives while there are events
    """

    def __init__(self, emit: Callable[[Event], object]) -> None:
        self._emit = emit
        self._waiting: collections.deque[tuple[Event, concurrency.Event]] = collections.deque()
        self._pumping = False

    def post(self, event: Event) -> concurrency.Event:
        """Queue ``event``; return what is set when it was told."""
        told = concurrency.Event()
        self._waiting.append((event, told))
        if not self._pumping:
            self._pumping = True
            concurrency.spawn(self._pump)
        return told

    def tell(self, event: Event) -> None:
        """Queue ``event`` and wait until it was told."""
        self.post(event).wait()

    def drain(self) -> None:
        """Wait until all that is queued was told."""
        if self._waiting:
            self._waiting[-1][1].wait()

    def _pump(self) -> None:
        try:
            while self._waiting:
                event, told = self._waiting.popleft()
                self._hand_on(event)
                told.set()
        finally:
            self._pumping = False

    def _hand_on(self, event: Event) -> None:
        try:
            self._emit(event)
        except Exception:
            LOG.exception("an event was not handed on: %s", event)

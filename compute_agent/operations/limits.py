# SPDX-License-Identifier: Apache-2.0
"""How many operations of a kind run at once. Who waits, waits in the order of coming."""

import collections
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compute_agent import concurrency


class Limit:
    """A number of places that may change while the agent runs.

    :param size: tells how many there are now
    """

    def __init__(self, size: Callable[[], int]) -> None:
        self._size = size
        self._taken = 0
        self._waiting: collections.deque[concurrency.Event] = collections.deque()

    @contextmanager
    def place(self, unwanted: concurrency.Event) -> Iterator[None]:
        """Wait for a place, hold it, give it back. Once it is ``unwanted``, go on without one."""
        held = self._acquire(unwanted)
        try:
            yield
        finally:
            if held:
                self._taken -= 1
                self.refresh()

    @property
    def full(self) -> bool:
        """Whether one more would have to wait."""
        return bool(self._waiting) or self._taken >= self._size()

    def refresh(self) -> None:
        """Let in who fits; also called when the configuration has changed."""
        while self._waiting and self._taken < self._size():
            self._taken += 1
            self._waiting.popleft().set()

    def _acquire(self, unwanted: concurrency.Event) -> bool:
        if unwanted.is_set():
            return False
        if not self.full:
            self._taken += 1
            return True
        turn = concurrency.Event()
        self._waiting.append(turn)
        concurrency.wait_any((turn, unwanted))
        if not turn.is_set():
            self._waiting.remove(turn)
        return turn.is_set()

# SPDX-License-Identifier: Apache-2.0
"""Signals that end the demonstration: the first one interrupts, those after it change nothing.

Impatience must not leave anything behind: a second Ctrl-C during the clean-up is noted and has no effect.
"""

from __future__ import annotations

import contextlib
import signal
import types
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked for the end. `number` says which."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class Signals:
    """Turns the first ending signal into `Interrupted`, raised in the main thread, once."""

    def __init__(self) -> None:
        self._raises = True
        self._over = False
        self._pending: int | None = None
        for number in ENDING:
            signal.signal(number, self._arrived)

    def _arrived(self, number: int, _frame: types.FrameType | None) -> None:
        if self._over:
            return
        if not self._raises:
            self._pending = self._pending or number
            return
        self._over = True
        raise Interrupted(number)

    def end(self) -> None:
        """From here on signals change nothing."""
        self._over = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What is begun here is done to its end; a signal that came meanwhile interrupts after it."""
        self._raises = False
        try:
            yield
        finally:
            self._raises = True
        if self._pending is not None and not self._over:
            self._over = True
            raise Interrupted(self._pending)

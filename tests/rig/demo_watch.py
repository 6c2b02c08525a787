# SPDX-License-Identifier: Apache-2.0
"""What comes out while the demonstration runs: the agent's events and the guests' consoles."""

from __future__ import annotations

import abc
import dataclasses
import pathlib
import threading
from collections.abc import Callable
from typing import Any

from tests.rig.demo_lines import describe, local_time, style_of
from tests.rig.demo_screen import Screen, Style
from tests.rig.process import RigTimeoutError, wait_until
from tests.rig.receiver import Receiver

_PATIENCE_S = 0.2
_CONSOLE_PAUSE_S = 0.03


class _Watch(abc.ABC):
    """Shows what comes, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    @abc.abstractmethod
    def _run(self) -> None:
        """Show until it is ending."""

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()

    def stop(self) -> None:
        """Show no more."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)


class EventWatch(_Watch):
    """Shows every event that a receiver has got, once, in the order of arrival.

    on_event: told of each one after it was shown.
    """

    def __init__(
        self, screen: Screen, receiver: Receiver, on_event: Callable[[dict[str, Any]], object]
    ) -> None:
        super().__init__("events")
        self.names: dict[str, str] = {}
        self.shown = 0
        self._screen = screen
        self._receiver = receiver
        self._on_event = on_event
        self._seen: set[tuple[str, str, int]] = set()

    def wait_shown(self, count: int, timeout: float = 60.0) -> None:
        """Wait until the first `count` events that came were shown."""
        wait_until(lambda: self.shown >= count, timeout, "the events on the screen")

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                event = self._receiver.wait_for(since=self.shown, timeout=_PATIENCE_S)
            except RigTimeoutError:
                continue
            if self._is_new(event):
                self._show(event)
                self._on_event(event)
            self.shown += 1

    def _is_new(self, event: dict[str, Any]) -> bool:
        if event.get("seq") is None:
            return True
        identity = (event["host_id"], event["epoch"], event["seq"])
        new = identity not in self._seen
        self._seen.add(identity)
        return new

    def _show(self, event: dict[str, Any]) -> None:
        self._screen.entry(
            local_time(event.get("occurred_at")),
            ("event", Style.YELLOW),
            event["type"],
            describe(event, self.names),
            style_of(event),
        )


@dataclasses.dataclass
class _Console:
    name: str
    path: pathlib.Path
    position: int = 0
    rest: bytes = b""

    def lines(self) -> list[str]:
        """The lines that were completed since the last time."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self.position:  # begun anew: the guest was started again
                    self.position, self.rest = 0, b""
                file.seek(self.position)
                text = file.read()
        except OSError:
            return []
        self.position += len(text)
        *complete, self.rest = (self.rest + text).split(b"\n")
        return [line.decode(errors="replace").strip("\r\0") for line in complete]


class ConsoleWatch(_Watch):
    """Shows each line that guests write to the files their serial ports are logged to."""

    def __init__(self, screen: Screen) -> None:
        super().__init__("consoles")
        self._screen = screen
        self._consoles: dict[pathlib.Path, _Console] = {}
        self._lines: list[str] = []

    def follow(self, name: str, path: pathlib.Path) -> None:
        """Show this guest's, too. Following it already is fine."""
        self._consoles.setdefault(path, _Console(name, path))

    def wait_line(self, text: str, timeout: float) -> None:
        """Wait until a line with `text` was shown. Raises RigTimeoutError."""
        wait_until(
            lambda: any(text in line for line in self._lines),
            timeout,
            f"{text!r} on the guest's console",
            lambda: "\n".join(self._lines),
        )

    def _run(self) -> None:
        while not self._ending.wait(_CONSOLE_PAUSE_S):
            for console in list(self._consoles.values()):
                for line in console.lines():
                    self._screen.entry(
                        local_time(None), ("console", Style.MAGENTA), console.name, line, Style.MAGENTA
                    )
                    self._lines.append(line)

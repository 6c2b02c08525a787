# SPDX-License-Identifier: Apache-2.0
"""How long a guest of the lab was away: by ping, and by its own ticks.

The guest's clock stands while it is stopped, so between two ticks the time outside runs ahead of the uptime
by just the time it was away. Ping sees the network's share too (until the switch has learnt the new port).
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import threading
import time
from typing import Self

from tests.rig import linuxguest
from tests.rig.echo import Pinger
from tests.rig.labguest import LabGuest

_POLL_S = 0.004


@dataclasses.dataclass(frozen=True)
class Outage:
    """The longest time that a guest was away, in seconds: by ping, and by its ticks."""

    ping_s: float
    ticks_s: float


class Watch:
    """Watches a guest from entering a `with` block to its end; `outage` then says how long it was away."""

    def __init__(self, guest: LabGuest, interval: float = 0.01) -> None:
        self._guest = guest
        self._pinger = Pinger(guest.address, interval)
        self._tails = [Tail(path) for path in guest.console_files()]
        self._seen: list[tuple[float, linuxguest.Tick]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"watch {guest.uuid}")

    def __enter__(self) -> Self:
        self._pinger.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._pinger.__exit__()

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_S):
            for tail in self._tails:
                now, text = time.monotonic(), tail.news()
                found = linuxguest.ticks(text)
                self._seen += [(now, tick) for tick in found]
                self._guest.remember(found)

    @property
    def outage(self) -> Outage:
        """The longest outage so far; infinite if there were no two signs of life."""
        seen = sorted(self._seen, key=lambda pair: pair[1].up_ms)
        away = [(b - a) - (two.up_ms - one.up_ms) / 1000 for (a, one), (b, two) in itertools.pairwise(seen)]
        return Outage(self._pinger.longest_silence(), max(away, default=float("inf")))


class Tail:
    """What is new in a file that grows, by whole lines; it need not exist yet.

    all_of_it: what it holds already counts as new.
    """

    def __init__(self, path: pathlib.Path, *, all_of_it: bool = False) -> None:
        self._path = path
        self._file = 0
        self._at = path.stat().st_size if path.exists() and not all_of_it else 0
        self._rest = ""

    def news(self) -> str:
        """The lines that were added; all of a file that took the place of the one before."""
        try:
            with self._path.open("rb") as file:
                self._look_at(os.fstat(file.fileno()))
                file.seek(self._at)
                piece = file.read()
        except FileNotFoundError:
            return ""
        self._at += len(piece)
        whole, end, self._rest = (self._rest + piece.decode(errors="replace")).rpartition("\n")
        return whole + end

    def _look_at(self, file: os.stat_result) -> None:
        if self._file not in (0, file.st_ino) or file.st_size < self._at:
            self._at, self._rest = 0, ""
        self._file = file.st_ino

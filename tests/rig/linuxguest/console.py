# SPDX-License-Identifier: Apache-2.0
"""What the Linux guest says on its serial port, read back.

A line may be cut where one console ends and another host's begins: what is no whole tick is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

_TICK = re.compile(r"^tick (\d+) up (\d+) records (\d+) failed (\d+)\s*$", re.M)
_TROUBLE = re.compile(r"^witness (?:write failed|read wrong|cannot).*$", re.M)


@dataclasses.dataclass(frozen=True)
class Tick:
    """One sign of life: its number since the start, uptime in ms, records on the disk, failed writes."""

    number: int
    up_ms: int
    records: int
    failed: int


def ticks(console: str) -> list[Tick]:
    """All ticks of a console's text, in order."""
    return [Tick(*map(int, found)) for found in _TICK.findall(console)]


def last(console: str) -> Tick | None:
    """The newest tick; None before the first."""
    found = ticks(console[-4096:])
    return found[-1] if found else None


def troubles(console: str) -> list[str]:
    """What went wrong with its disk, as it said."""
    return [line.strip() for line in _TROUBLE.findall(console)]


def gaps(found: list[Tick], longest_ms: int = 10_000, *, complete: bool = True) -> list[tuple[Tick, Tick]]:
    """Neighbouring ticks whose uptimes lie further apart, or that go back: a jump, a loss, or a new start.

    complete: no tick may be missing in between.
    """
    return [
        (one, other)
        for one, other in itertools.pairwise(found)
        if not 0 < other.up_ms - one.up_ms <= longest_ms or (complete and other.number != one.number + 1)
    ]

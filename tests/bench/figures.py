# SPDX-License-Identifier: Apache-2.0
"""What a bench has measured: figures of both sides, round by round, and the ratio between them.

A ratio is taken within a round, where both sides met the same machine; of several rounds the median counts.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of several figures, and how far they lie apart."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Raises ValueError without figures."""
        return cls(statistics.median(figures), min(figures), max(figures))


@dataclasses.dataclass
class Result:
    """One bench.

    ours, floor: a figure per round, in `unit`; `floor` is empty where nothing is compared.
    target: what the ratio (without a floor: the median of ours) should be at most, or, with `more_is_better`,
    at least; None if there is no target. breakdown: where the time goes, in ms by part.
    """

    name: str
    title: str
    unit: str
    ours: list[float] = dataclasses.field(default_factory=list)
    floor: list[float] = dataclasses.field(default_factory=list)
    target: float | None = None
    more_is_better: bool = False
    compares: str = ""
    breakdown: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Ours by the floor's, round by round."""
        return [ours / floor for ours, floor in zip(self.ours, self.floor, strict=False)]

    @property
    def judged(self) -> Spread:
        """What the target is about."""
        return Spread.of(self.ratios or self.ours)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        reached = self.judged.median
        return reached >= self.target if self.more_is_better else reached <= self.target

    def as_data(self) -> dict[str, Any]:
        """All of it, for JSON."""
        judged = dataclasses.asdict(self.judged)
        return dataclasses.asdict(self) | {"ratios": self.ratios, "judged": judged, "met": self.met}


def merged(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each part of several breakdowns, in the order in which the parts first come."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: statistics.median([part[name] for part in parts if name in part]) for name in names}

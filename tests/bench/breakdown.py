# SPDX-License-Identifier: Apache-2.0
"""Where an operation's time goes: between its events, and by step as the agent itself has timed them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from tests.bench.client import Performed
from tests.bench.figures import merged

_ENDS = "operation.succeeded"


def of_operations(several: Sequence[Performed]) -> dict[str, float]:
    """The median of each part, in ms."""
    return merged([_of_operation(one) for one in several])


def _of_operation(one: Performed) -> dict[str, float]:
    """The parts follow each other and add up; the steps lie between `operation.started` and the end."""
    parts: dict[str, float] = {}
    before, last = "cast", one.cast_at
    for event in one.events:
        if event.get("seq") is None:
            continue
        at = datetime.datetime.fromisoformat(event["occurred_at"]).timestamp()
        name = _unique(f"{before} → {event['type']}", parts)
        parts[name] = (at - last) * 1000
        before, last = event["type"], at
    parts[f"{before} → received"] = (one.received_at - last) * 1000
    return parts | _of_steps(one)


def _unique(name: str, parts: dict[str, float]) -> str:
    number = 2
    plain = name
    while name in parts:
        name = f"{plain} ({number})"
        number += 1
    return name


def _of_steps(one: Performed) -> dict[str, float]:
    end: dict[str, Any] = next((event for event in one.events if event["type"] == _ENDS), {})
    timing = (end.get("data") or {}).get("timing") or {}
    steps = {f"  step {step['name']}": float(step["ms"]) for step in timing.get("steps") or []}
    if timing.get("queued_ms") is not None:
        return {"  queued": float(timing["queued_ms"])} | steps
    return steps

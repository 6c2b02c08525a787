# SPDX-License-Identifier: Apache-2.0
"""Events in words: what matters of each, on one line.

Invariant: an event of a type, or with fields, that is not known here still gives a line.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from tests.rig.demo_screen import Style

Event = Mapping[str, Any]

_POWER_STATES = {1: "running", 3: "paused", 4: "shut down", 6: "crashed", 7: "suspended"}
#: Steps that took a smaller part of the time than this are left out.
_WORTH_TELLING = 0.05


def local_time(moment: str | None) -> str:
    """The time of day here, to the millisecond; now, if none is given."""
    at = datetime.datetime.fromisoformat(moment) if moment else datetime.datetime.now(datetime.UTC)
    return at.astimezone().strftime("%H:%M:%S.%f")[:-3]


def style_of(event: Event) -> Style:
    """How its type is shown."""
    kind = str(event["type"])
    if kind.endswith((".failed", ".rejected", ".crashed", ".problem", ".disabled")):
        return Style.RED
    if kind.endswith(".succeeded"):
        return Style.GREEN
    if kind.startswith("instance.lifecycle."):
        return Style.CYAN
    return Style.DIM if kind in ("host.report", "operation.progress") else Style.PLAIN


def describe(event: Event, names: Mapping[str, str]) -> str:
    """What matters of an event.

    names: what instances are called, by uuid; others are shown by the first part of theirs.
    """
    kind = str(event["type"])
    data = event.get("data") or {}
    about = _subject(event, names)
    room = kind.rpartition(".")[0]
    words = _DESCRIBERS.get(kind) or _DESCRIBERS.get(room) or _plain
    return f"{about}{words(event, data)}".rstrip(" :")


def _subject(event: Event, names: Mapping[str, str]) -> str:
    uuid = event.get("instance_uuid")
    return f"{names.get(uuid, uuid.partition('-')[0])}: " if uuid else ""


def _plain(_event: Event, data: Event) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in data.items() if isinstance(value, str | int | float)
    )


def _operation(_event: Event, data: Event) -> str:
    return str(data.get("verb") or data.get("method") or "")


def _failed(event: Event, data: Event) -> str:
    error = data.get("error") or {}
    return f"{_operation(event, data)}: {error.get('code')}: {error.get('message')}"


def _succeeded(event: Event, data: Event) -> str:
    steps = (data.get("timing") or {}).get("steps") or []
    total = sum(step["ms"] for step in steps)
    slow = [step for step in steps if step["ms"] >= total * _WORTH_TELLING]
    told = ", ".join(f"{step['name']} {_duration(step['ms'] / 1000)}" for step in slow)
    took = _elapsed(data.get("accepted_at"), data.get("finished_at"))
    return f"{_operation(event, data)} took {took}{f' ({told})' if told else ''}"


def _progress(event: Event, data: Event) -> str:
    progress = data.get("progress") or {}
    total = f"/{progress['total']}" if progress.get("total") else ""
    done = (
        f" {progress['done']}{total} {progress.get('unit', '')}" if progress.get("done") is not None else ""
    )
    return f"{_operation(event, data)} {data.get('step') or ''}{done}"


def _elapsed(begun: str | None, ended: str | None) -> str:
    if not begun or not ended:
        return "?"
    return _duration(
        (datetime.datetime.fromisoformat(ended) - datetime.datetime.fromisoformat(begun)).total_seconds()
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


def _lifecycle(event: Event, data: Event) -> str:
    observed = ", found after a restart" if data.get("observed") == "reconciled" else ""
    power_state = _POWER_STATES.get(data.get("power_state"), data.get("power_state"))
    return f"power state {power_state}, caused by {event.get('cause')}{observed}"


def _instance(_event: Event, data: Event) -> str:
    record = data.get("instance") or {}
    return f"state {record.get('state')}, revision {record.get('revision')}" if record else ""


def _report(_event: Event, data: Event) -> str:
    resources = data.get("resources")
    enabled = "enabled" if data.get("enabled") else f"disabled: {data.get('reasons')}"
    if not resources:
        return enabled
    memory = f"{resources.get('memory_mb_used')} of {resources.get('memory_mb')} MiB"
    return f"{enabled}, {memory} and {resources.get('vcpus_used')} of {resources.get('vcpus')} vcpus in use"


_DESCRIBERS: dict[str, Callable[[Event, Event], str]] = {
    "operation": _operation,
    "operation.succeeded": _succeeded,
    "operation.failed": _failed,
    "operation.rejected": _failed,
    "operation.cancelled": _failed,
    "operation.progress": _progress,
    "instance.lifecycle": _lifecycle,
    "instance": _instance,
    "host.report": _report,
}

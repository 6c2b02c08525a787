# SPDX-License-Identifier: Apache-2.0
"""Answers and errors as text for a terminal.

An answer is plain data of any shape: single values become aligned lines, lists of objects become tables.
Much of it was chosen by guests and callers, so nothing that a terminal would obey gets through.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import msgspec

from compute_agent.model.errors import Error
from compute_agent.model.states import PowerState

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "instances": ("uuid", "instance.name", "state", "power_state", "generation", "revision"),
    "operations": ("operation_id", "verb", "instance_uuid", "state", "step", "accepted_at", "error.code"),
    "doing": ("operation_id", "verb", "state", "step", "waiting_for", "accepted_at"),
    "recent": ("operation_id", "verb", "state", "finished_at", "error.code"),
    "result.guests": (
        "instance_uuid",
        "name",
        "standing",
        "dest",
        "error.code",
        "error.message",
        "error.hint",
    ),
    "events": ("seq", "occurred_at", "type", "instance_uuid", "operation_id", "cause"),
}
"""Which columns the table of a list has; a list that is not here shows all single values."""

LINES = frozenset({"uuids", "problems"})
"""Lists of single values that have a line for each, and lists that are told of when they are empty."""

LEFT_OUT = frozenset({"as_of"})
"""For programs, which get it with ``--format json``."""

TEXTS = frozenset({"output"})
"""Values that are shown as they are, over as many lines as they have."""

POWER_STATES = {state.value: state.name.lower() for state in PowerState}
GAP = "  "


def plain(value: Any) -> Any:
    """Return ``value`` as plain data for JSON."""
    return msgspec.to_builtins(value)


def width(stream: TextIO) -> int | None:
    """Return how many columns ``stream`` has; None if it is no terminal, and lines may be of any length."""
    if not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 80


def safe(text: str, keep: str = "") -> str:
    """Return ``text`` with what could steer the terminal made visible, but for the characters in ``keep``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def cell(value: Any, name: str = "") -> str:
    """Return a single value, or a list of them, as one line."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("state") and isinstance(value, int):
        return POWER_STATES.get(value, str(value))
    if isinstance(value, list | tuple):
        return ", ".join(
            "/".join(map(cell, item)) if isinstance(item, list) else cell(item) for item in value
        )
    return safe(str(value))


def table(rows: Iterable[Sequence[str]], heads: Sequence[str], columns: int | None = None) -> Iterator[str]:
    """Yield the lines of a table, cut to ``columns`` characters."""
    lines = [[head.upper() for head in heads], *rows]
    sizes = [max(len(line[number]) for line in lines) for number in range(len(heads))]
    for line in lines:
        text = GAP.join(value.ljust(size) for value, size in zip(line, sizes, strict=True)).rstrip()
        yield text if columns is None else text[:columns]


def answer(value: Mapping[str, Any], columns: int | None = None) -> Iterator[str]:
    """Yield an answer's lines: its single values, then its texts, then its lists."""
    singles, texts, lists = _sorted(value)
    size = max((len(name) for name, _ in singles), default=0)
    for name, single in singles:
        yield f"{name.ljust(size)}{GAP}{cell(single, name)}"
    for _, text in texts:
        yield from safe(text, keep="\n\t").replace("\\r\n", "\n").splitlines()
    for name, items in lists:
        title = name.replace("_", " ")
        if len(lists) > 1:
            yield f"{title}:{'' if items else ' none'}"
        elif not items:
            yield f"no {title}"
        yield from _listed(name, items, columns)


def _sorted(value: Mapping[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    singles, texts, lists = [], [], []
    for name, item in _flat({key: item for key, item in value.items() if key not in LEFT_OUT}):
        if name in TEXTS and isinstance(item, str):
            texts.append((name, item))
        elif isinstance(item, list) and _is_table(name, item):
            lists.append((name, item))
        elif item is not None and item != {} and item != []:
            singles.append((name, item))
    return singles, texts, lists


def _is_table(name: str, items: list[Any]) -> bool:
    return name in COLUMNS or name in LINES or any(isinstance(item, Mapping) for item in items)


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{before}{safe(str(name))}.")
        else:
            yield f"{before}{safe(str(name))}", item


def _listed(name: str, items: list[Any], columns: int | None) -> Iterator[str]:
    if not all(isinstance(item, Mapping) for item in items):
        yield from (cell(item) for item in items)
    elif items:
        flat = [dict(_flat(item)) for item in items]
        heads = COLUMNS.get(name) or tuple(dict.fromkeys(key for row in flat for key in row))
        heads = tuple(head for head in heads if any(head in row for row in flat)) or heads
        yield from table(([cell(row.get(head), head) for head in heads] for row in flat), heads, columns)


def error(problem: Error) -> Iterator[str]:
    """Yield an error's lines: what happened, where, what to do, what shows it."""
    yield f"{problem.code}: {safe(problem.message)}"
    if problem.step:
        yield f"  step: {safe(problem.step)}"
    if problem.retry_after_s is not None:
        yield f"  try again after {problem.retry_after_s:g} s"
    if problem.hint:
        yield f"  hint: {safe(problem.hint)}"
    if problem.evidence:
        yield "  evidence:"
        yield from (f"    {line}" for line in safe(problem.evidence, keep="\n\t").splitlines())

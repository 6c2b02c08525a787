# SPDX-License-Identifier: Apache-2.0
"""The results as a table for people (and for `docs/performance.md`) and as JSON for everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.figures import Result, Spread

_HEADINGS = ("bench", "ours", "floor", "ratio", "min – max", "target", "")


def table(results: Sequence[Result]) -> str:
    """A table in Markdown, its columns aligned."""
    rows = [_HEADINGS, *[_row(result) for result in results]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [_line(row, widths) for row in rows]
    return "\n".join([lines[0], _line(["-" * width for width in widths], widths), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _row(result: Result) -> tuple[str, ...]:
    ours = Spread.of(result.ours)
    floor = _figure(Spread.of(result.floor).median, result.unit) if result.floor else ""
    judged = result.judged
    if result.ratios:
        shown = (f"{judged.median:.2f}", f"{judged.least:.2f} – {judged.most:.2f}")
        bound = f"{result.target:.2f}" if result.target is not None else ""
    else:
        shown = ("", f"{_number(judged.least)} – {_figure(judged.most, result.unit)}")
        bound = _figure(result.target, result.unit) if result.target is not None else ""
    sign = ("≥ " if result.more_is_better else "≤ ") if bound else ""
    verdict = {True: "reached", False: "MISSED", None: ""}[result.met]
    return (result.title, _figure(ours.median, result.unit), floor, *shown, sign + bound, verdict)


def _number(figure: float) -> str:
    if figure >= 100:
        return f"{figure:.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def _figure(figure: float, unit: str) -> str:
    return f"{_number(figure)} {unit}"


def details(result: Result) -> str:
    """What is compared, and where the time goes."""
    lines = [f"{result.title}: {result.compares}"] if result.compares else [f"{result.title}:"]
    lines += [f"  {name:<46} {milliseconds:9.2f} ms" for name, milliseconds in result.breakdown.items()]
    return "\n".join([*lines, *[f"  {note}" for note in result.notes]])


def facts(machine: Mapping[str, Any]) -> str:
    """The machine, in a few lines."""
    return "\n".join(f"{name:<12} {value}" for name, value in machine.items())


def as_data(results: Sequence[Result], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, for JSON."""
    missed = [result.name for result in results if result.met is False]
    return {
        "machine": dict(machine),
        "missed": missed,
        "benches": {result.name: result.as_data() for result in results},
    }

# SPDX-License-Identifier: Apache-2.0
"""``top``: a host at a glance, again and again. It asks, so it takes nothing from receivers of reports."""

import argparse
import shutil
import time
from collections.abc import Iterator
from typing import Any

from compute_agent.cmd.client import following, output
from compute_agent.cmd.client.problems import problem
from compute_agent.cmd.client.session import DONE, Record, Session

HOME, CLEAR_BELOW, CLEAR_END = "\x1b[H", "\x1b[J", "\x1b[K"
ALTERNATE, NORMAL = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
SHOWN = 1000
"""Instances that are asked for."""

RESOURCES = (
    ("vcpus", "vcpus_used", "vcpus", ""),
    ("memory", "memory_mb_used", "memory_mb", " MiB"),
    ("disk", "local_gb_used", "local_gb", " GiB"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the options of ``top``."""
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds between two looks")


def run(session: Session, chosen: argparse.Namespace) -> int:
    """Show the host until Ctrl-C, or once; return the exit status."""
    if chosen.once or not session.out.isatty():
        seen = look(session)
        if session.settings.as_json:
            session.show(seen)
        else:
            session.line("\n".join(screen(seen, output.width(session.out))))
        return DONE
    session.line(ALTERNATE)
    try:
        while True:
            _paint(session)
            time.sleep(chosen.interval)
    except KeyboardInterrupt:
        return DONE
    finally:
        session.line(NORMAL)


def look(session: Session) -> Record:
    """Return all that is shown."""
    return {**session.api.ask("ping"), **session.api.ask("get_snapshot", limit=SHOWN)}


def _paint(session: Session) -> None:
    columns = output.width(session.out)
    try:
        lines = list(screen(look(session), columns))
    except Exception as error:
        lines = [f"{session.api.host}  {time.strftime('%X')}", *output.error(problem(error))]
    height = shutil.get_terminal_size().lines
    text = "".join(f"{line}{CLEAR_END}\n" for line in lines[: height - 1])
    print(f"{HOME}{text}{CLEAR_BELOW}", end="", file=session.out, flush=True)


def screen(seen: Record, columns: int | None = None) -> Iterator[str]:
    """Yield the lines of the screen."""
    yield from _head(seen)
    yield ""
    yield from _operations(seen["operations"], columns)
    yield ""
    yield from _instances(seen["instances"], columns)


def _head(seen: Record) -> Iterator[str]:
    as_of = seen["as_of"]
    yield output.safe(
        f"{as_of['host']}  {seen.get('now', '')}  up {_span(seen.get('uptime_s', 0))}  "
        f"epoch {as_of['epoch']}  seq {as_of['seq']}"
    )
    resources = seen.get("resources")
    if resources:
        yield "  ".join(_resource(resources, *row) for row in RESOURCES if row[2] in resources)
    reasons = {**(seen.get("reasons") or {})}
    if seen.get("hypervisor_away"):
        reasons.setdefault("hypervisor", seen["hypervisor_away"])
    told = "; ".join(f"{owner}: {reason}" for owner, reason in reasons.items())
    yield output.safe(f"disabled ({told})") if told else "enabled"


def _resource(resources: Record, name: str, used: str, total: str, unit: str) -> str:
    taken, there = resources.get(used, 0), resources[total]
    filled = following.BAR // 2 * taken // there if there else 0
    drawn = ("#" * min(int(filled), following.BAR // 2)).ljust(following.BAR // 2, ".")
    return f"{name} [{drawn}] {taken}/{there}{unit}"


def _operations(found: list[Record], columns: int | None) -> Iterator[str]:
    yield f"{len(found)} operations under way"
    if found:
        rows = [
            [
                output.cell(record["operation_id"]),
                output.cell(record.get("instance_uuid")),
                following.line(record),
                f"{following.elapsed(record) or 0:.0f} s",
            ]
            for record in found
        ]
        yield from output.table(rows, ("operation_id", "instance_uuid", "doing", "for"), columns)


def _instances(found: list[Record], columns: int | None) -> Iterator[str]:
    counts: dict[str, int] = {}
    for record in found:
        counts[record["state"]] = counts.get(record["state"], 0) + 1
    told = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    yield f"{len(found)} instances{f': {told}' if told else ''}"
    if found:
        heads = ("uuid", "name", "state", "power_state", "vcpus", "memory_mb", "generation")
        yield from output.table((_row(record, heads) for record in found), heads, columns)


def _row(record: Record, heads: tuple[str, ...]) -> list[str]:
    instance: dict[str, Any] = record.get("instance") or {}
    values = {**record, "name": instance.get("name"), **(instance.get("flavor") or {})}
    return [output.cell(values.get(head), head) for head in heads]


def _span(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock

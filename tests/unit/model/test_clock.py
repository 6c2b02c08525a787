# SPDX-License-Identifier: Apache-2.0
"""One way to the wall clock, so that what depends on it can be found, and tested with another time."""

import ast
import datetime
from collections.abc import Iterator
from pathlib import Path

import compute_agent
from compute_agent.model import clock

ROOT = Path(compute_agent.__file__).parent
WALL_CLOCKS = {"time.time", "time.time_ns", "time.gmtime", "time.localtime", "time.strftime"} | {
    f"{owner}.{name}"
    for owner in ("datetime", "datetime.datetime", "date", "datetime.date")
    for name in ("now", "utcnow", "today")
}


def readings(path: Path) -> Iterator[str]:
    """Where a file reads the wall clock."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCKS:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_the_agent_reads_the_wall_clock_in_one_module() -> None:
    """The command, which shows an operator the time, is another program."""
    paths = [path for path in ROOT.rglob("*.py") if ROOT / "cmd" / "client" not in path.parents]
    found = [reading for path in paths for reading in readings(path)]
    assert [reading for reading in found if not reading.startswith("model/clock.py:")] == []
    assert len(found) == 1


def test_a_time_stamp_is_utc_with_microseconds_and_reads_back() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = datetime.datetime(2026, 7, 1, 1, 30, tzinfo=zone)
    assert clock.timestamp(moment) == "2026-06-30T23:30:00.000000Z"
    assert clock.parse(clock.timestamp(moment)) == moment


def test_time_stamps_sort_as_their_moments_do() -> None:
    stamps = [clock.timestamp(clock.after(seconds)) for seconds in (-86400, -1, 0, 1, 86400)]
    assert stamps == sorted(stamps)

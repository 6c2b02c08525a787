# SPDX-License-Identifier: Apache-2.0
"""The clock of the agent's host is set by a day, there and back, while it works.

Only the wall clock is set (libfaketime), as by a person or a time server: what counts from the boot is not.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rig.agent import Agent
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
DAY_S = 86400


class WallClock:
    """The wall clock of one host."""

    def __init__(self, directory: Path) -> None:
        (self._library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self._file = directory / "clock"
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """Let it be ahead of the true time by so many seconds, or behind if negative."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}\n")
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to go by it."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture
def clocked_agent(
    receiver: Receiver, agent: Callable[..., Agent], wall: WallClock, tmp_path: Path
) -> Callable[..., Agent]:
    """Make an agent that goes by `wall`; `faults` are those of the fake driver."""

    def make(**faults: str) -> Agent:
        fake: dict[str, object] = {"ledger": tmp_path / "ledger"}
        if faults:
            fake["faults"] = ", ".join(f"{name.replace('_', '.')}={what}" for name, what in faults.items())
        sections = {"DEFAULT": {"max_concurrent_builds": 2}, "fake": fake}
        return agent(environment=wall.environment, sections=sections)

    return make


def jump(receiver: Receiver, seconds: int, since: int = 0) -> dict[str, Any]:
    """Wait until a jump of the clock is told, since a mark."""
    return receiver.wait_for(
        lambda event: abs(event["data"].get("jump_s", 0) - seconds) < 60,
        type="host.problem",
        since=since,
        timeout=30,
    )


def test_a_day_either_way_changes_no_order_and_no_deadline(
    receiver: Receiver, clocked_agent: Callable[..., Agent], sender: Callable[..., Sender], wall: WallClock
) -> None:
    one = clocked_agent(spawn_start="slow:0.5", suspend="hang")
    to = sender(one)
    first = to.cast("spawn", instance=describe(IMAGE), timeout_s=60)
    receiver.succeeded(first, timeout=30)
    operations = [to.cast("spawn", instance=describe(IMAGE), timeout_s=60) for _ in range(10)]
    for ahead_s, jump_s in ((DAY_S, DAY_S), (-DAY_S, -2 * DAY_S), (0, DAY_S)):
        mark = receiver.mark()
        wall.set(ahead_s)
        jump(receiver, jump_s, since=mark)
        told = receiver.mark()
        hung = to.cast("suspend", instance_uuid=receiver.end_of(first)["instance_uuid"], timeout_s=2)
        assert receiver.end_of(hung, timeout=30)["data"]["error"]["code"] == "Timeout"
        assert to.call("ping")["pong"]
        report = receiver.wait_for(type="host.report", since=told)
        assert "clock" in report["data"]["problems"] or ahead_s == 0
    for operation in operations:
        assert receiver.succeeded(operation, timeout=60)["data"]["attempts"] == 1
    begun = [event["operation_id"] for event in receiver.distinct() if event["type"] == "operation.started"]
    assert [operation for operation in begun if operation in operations] == operations
    receiver.assert_gapless()


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S])
def test_a_clock_that_was_set_while_the_agent_was_away_is_told_and_what_was_begun_goes_on(
    receiver: Receiver,
    clocked_agent: Callable[..., Agent],
    sender: Callable[..., Sender],
    wall: WallClock,
    ahead_s: int,
) -> None:
    one = clocked_agent(spawn_start="slow:1")
    to = sender(one)
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    begun = to.cast("spawn", instance=describe(IMAGE), expires_at=soon.isoformat(), timeout_s=60)
    receiver.wait_for(type="operation.started", operation_id=begun)
    one.kill()
    wall.set(ahead_s)
    one.start()
    jump(receiver, ahead_s)
    assert receiver.succeeded(begun, timeout=60)["data"]["attempts"] == 2
    late = to.cast("spawn", instance=describe(IMAGE), expires_at=soon.isoformat())
    error = receiver.end_of(late)["data"]["error"]
    assert error is None if ahead_s < 0 else error["code"] == "Expired", "by the wall clock, whatever it says"
    receiver.assert_gapless()

# SPDX-License-Identifier: Apache-2.0
"""A clock that is off is said so; order and deadlines don't mind it, dates and ``expires_at`` follow it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent import concurrency, failpoints
from compute_agent.manager import timekeeping
from compute_agent.manager.timekeeping import CLOCK, Timekeeper
from compute_agent.model import clock
from tests.unit.house import House

DAY_S = 86400.0
INSTANCE = {
    "uuid": "11111111-1111-4111-8111-111111111111",
    "flavor": {"vcpus": 1, "memory_mb": 64},
    "image": {"url": "file:///i/a"},
}


class Clock:
    """The wall clock, to be set; what counts from the boot is not touched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        monkeypatch.setattr(clock, "unix", lambda: time.time() + self.ahead_s)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def keeper(house: House, wall: Clock, monkeypatch: pytest.MonkeyPatch) -> Timekeeper:
    monkeypatch.setattr(timekeeping, "INTERVAL_S", 3600.0)
    keeper = Timekeeper(house.manager)
    keeper.start()
    return keeper


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def problems(house: House) -> list[dict[str, Any]]:
    return [event.data for event in house.events("host.problem")]


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_a_jump_is_a_problem_until_the_clock_is_back(
    house: House, wall: Clock, keeper: Timekeeper, jump_s: float
) -> None:
    keeper.look()
    assert keeper.trusted and problems(house) == []
    wall.ahead_s = jump_s
    keeper.look()
    keeper.look()
    (told,) = problems(house)
    assert told["jump_s"] == pytest.approx(jump_s, abs=1)
    assert not keeper.trusted and "86400 s" in house.manager.health[CLOCK]
    wall.ahead_s = 0.0
    keeper.look()
    assert "to where it was before" in problems(house)[1]["problem"]
    keeper.look()
    assert keeper.trusted


def test_a_clock_that_goes_on_steadily_is_believed_again(
    house: House, wall: Clock, keeper: Timekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall.ahead_s = DAY_S
    keeper.look()
    keeper.look()
    assert not keeper.trusted
    monkeypatch.setattr(timekeeping, "STEADY_S", 0.0)
    keeper.look()
    assert keeper.trusted
    wall.ahead_s = 2 * DAY_S
    keeper.look()
    assert not keeper.trusted and len(problems(house)) == 2


def test_a_clock_that_is_slewed_is_no_problem(house: House, wall: Clock, keeper: Timekeeper) -> None:
    for _ in range(20):
        wall.ahead_s += 0.4
        keeper.look()
    assert keeper.trusted and problems(house) == []


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_a_jump_while_the_agent_was_away_is_told(
    house: House, wall: Clock, keeper: Timekeeper, jump_s: float
) -> None:
    house.crash()
    wall.ahead_s = jump_s
    later = Timekeeper(house.manager)
    later.start()
    (told,) = problems(house)
    assert told["jump_s"] == pytest.approx(jump_s, abs=1)
    assert not later.trusted
    wall.ahead_s = 0.0
    later.look()
    later.look()
    assert later.trusted


def test_after_a_boot_a_clock_behind_the_record_is_a_problem_until_it_has_caught_up(
    house: House, wall: Clock, keeper: Timekeeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wall.ahead_s = DAY_S
    house.spawn()
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another\n")
    monkeypatch.setattr(timekeeping, "BOOT_ID", boot_id)
    house.crash()
    wall.ahead_s = 0.0
    later = Timekeeper(house.manager)
    later.start()
    assert "behind the newest event" in problems(house)[-1]["problem"]
    later.look()
    assert not later.trusted
    wall.ahead_s = DAY_S + 10
    later.look()  # a jump by itself, to where it should be
    monkeypatch.setattr(timekeeping, "STEADY_S", 0.0)
    later.look()
    assert later.trusted


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_what_runs_keeps_its_deadline(house: House, wall: Clock, jump_s: float) -> None:
    failpoints.arm("spawn.begun=hang")
    operation_id = house.ask("spawn", instance=INSTANCE, timeout_s=2.0)
    (entry,) = house.manager.engine.entries
    while entry.work is None:
        concurrency.sleep(0.005)
    left = entry.work.remaining()
    wall.ahead_s = jump_s
    assert left is not None and 0 < (entry.work.remaining() or 0) <= left
    assert not entry.ended.wait(0.2)
    assert entry.ended.wait(30)
    (end,) = [event for event in house.events("operation.failed") if event.operation_id == operation_id]
    assert end.data["error"]["code"] == "Timeout"


@pytest.mark.usefixtures("disarmed")
@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_what_was_interrupted_goes_on_whatever_the_clock_says_after_the_restart(
    house: House, wall: Clock, jump_s: float
) -> None:
    reached = concurrency.Event()
    failpoints.observe(lambda name: reached.set() if name == "spawn.start.before" else None)
    failpoints.arm("spawn.start.before=hang")
    expires_at = clock.timestamp(clock.after(3600))
    house.ask("spawn", instance=INSTANCE, expires_at=expires_at)
    assert reached.wait(30)
    failpoints.observe(None)
    failpoints.arm("")
    wall.ahead_s = jump_s
    house.crash()
    house.settle()
    assert len(house.events("operation.succeeded")) == 1


def test_what_waits_expires_by_the_wall_clock(house: House, wall: Clock) -> None:
    expires_at = clock.timestamp(clock.after(3600))
    assert house.do("spawn", instance=INSTANCE, expires_at=expires_at).error is None
    wall.ahead_s = DAY_S
    failed = house.do("reboot", instance_uuid=INSTANCE["uuid"], reboot_type="HARD", expires_at=expires_at)
    assert failed.error is not None and failed.error.code == "Expired"
    wall.ahead_s = -DAY_S
    done = house.do("reboot", instance_uuid=INSTANCE["uuid"], reboot_type="HARD", expires_at=expires_at)
    assert done.error is None


def test_the_order_of_operations_and_events_is_not_that_of_their_dates(house: House, wall: Clock) -> None:
    asked = []
    for ahead_s in (0.0, DAY_S, -DAY_S, 0.0):
        wall.ahead_s = ahead_s
        uuid = f"{len(asked):08d}-1111-4111-8111-111111111111"
        asked.append(house.do("spawn", instance=INSTANCE | {"uuid": uuid}))
    listed = house.question("list_operations")["operations"]
    assert [one["operation_id"] for one in listed] == [one.operation_id for one in reversed(asked)]
    events = house.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    ends = [event.operation_id for event in events if event.type == "operation.succeeded"]
    assert ends == [one.operation_id for one in asked]

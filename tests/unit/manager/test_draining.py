# SPDX-License-Identifier: Apache-2.0
"""A drain as one host sees it: what it refuses, whom it asks for, how it ends. With two: tests/functional."""

import uuid as uuids
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model.operation import OperationState
from tests.unit.house import House

MAINTENANCE = "host_maintenance_mode"
SPAWN = {"flavor": {"vcpus": 1, "memory_mb": 64}, "image": {"url": "file:///i/a"}}


@pytest.fixture
def patience() -> Iterator[Callable[[float], None]]:
    """Set for how long a host is waited for, in seconds."""
    yield lambda seconds: CONF.set_override("placement_timeout", seconds, group="host")
    CONF.clear_override("placement_timeout", group="host")


def refusal(house: House) -> str | None:
    """Why the house takes no new guest; None if it does."""
    error = house.do("spawn", instance={"uuid": str(uuids.uuid4()), **SPAWN}).error
    return error.code if error else None


def wait_asked(house: House, times: int = 1) -> list[Any]:
    """Wait until a host was asked for so often; the events."""
    for _attempt in range(300):
        if len(found := house.events("host.placement_needed")) >= times:
            return found
        concurrency.sleep(0.05)
    raise AssertionError("nobody was asked for")


def test_an_empty_host_is_drained_at_once_and_takes_nobody_until_it_serves_again(house: House) -> None:
    drained = house.do(MAINTENANCE, mode="on")
    assert drained.state is OperationState.SUCCEEDED
    assert drained.result == {"total": 0, "guests": [], "unknown": [], "set_aside": []}
    assert refusal(house) == "HostDisabled"
    house.crash()
    assert refusal(house) == "HostDisabled"
    assert house.do(MAINTENANCE, mode="off").result == {"reasons": {}}
    assert refusal(house) is None
    told = [event.data["owner"] for event in house.events() if event.type.startswith("host.")]
    assert told == ["maintenance", "maintenance"]


def test_an_operators_reason_stays_when_maintenance_is_over(house: House) -> None:
    house.do("set_host_enabled", enabled=False, reason="new memory")
    house.do(MAINTENANCE, mode="on")
    assert house.do(MAINTENANCE, mode="off").result == {"reasons": {"operator": "new memory"}}
    assert refusal(house) == "HostDisabled"


def test_what_can_not_be_moved_is_in_the_result_of_the_failure(house: House) -> None:
    uuid = house.spawn()
    house.do("suspend", instance_uuid=uuid)
    failed = house.do(MAINTENANCE, mode="on")
    assert failed.error is not None and failed.error.code == "MigrationFailed"
    assert failed.error.evidence is not None and uuid in failed.error.evidence
    assert failed.result is not None
    (line,) = failed.result["guests"]
    assert (line["standing"], line["error"]["code"]) == ("blocked", "InvalidState")
    assert "resume" in line["error"]["hint"]


def test_who_is_destroyed_meanwhile_is_no_obstacle(house: House) -> None:
    uuid = house.spawn()
    operation_id = house.ask(MAINTENANCE, mode="on")
    wait_asked(house)
    house.do("destroy", instance_uuid=uuid)
    ended = house.end_of(operation_id)
    assert ended.state is OperationState.SUCCEEDED and ended.result is not None
    assert [line["standing"] for line in ended.result["guests"]] == ["removed"]


def test_whom_nobody_places_is_blocked_and_may_be_asked_for_anew(
    house: House, patience: Callable[[float], None]
) -> None:
    patience(1)
    uuid = house.spawn()
    failed = house.do(MAINTENANCE, mode="on")
    assert failed.result is not None
    (line,) = failed.result["guests"]
    assert (line["standing"], line["error"]["code"]) == ("blocked", "Timeout")
    assert str(house.record(uuid).state) == "active"
    patience(600)
    again = house.ask(MAINTENANCE, mode="on")
    wait_asked(house, 2)
    joined = house.do(MAINTENANCE, mode="on")
    assert joined.result == {"joined": again}
    wait_asked(house, 3)
    house.do("cancel_operation", target=again)
    assert house.end_of(again).state is OperationState.CANCELLED


def test_it_goes_on_after_a_crash_and_asks_nobody_twice(house: House) -> None:
    uuid = house.spawn()
    operation_id = house.ask(MAINTENANCE, mode="on")
    wait_asked(house)
    house.crash()
    house.do("suspend", instance_uuid=uuid)
    ended = house.end_of(operation_id)
    assert ended.result is not None and ended.result["blocked"] == 1
    assert len(house.events("host.placement_needed")) == 1


def test_serving_again_ends_a_drain_that_is_under_way(house: House) -> None:
    house.spawn()
    operation_id = house.ask(MAINTENANCE, mode="on")
    wait_asked(house)
    assert house.do(MAINTENANCE, mode="off").state is OperationState.SUCCEEDED
    ended = house.end_of(operation_id)
    assert ended.state is OperationState.CANCELLED
    assert ended.result is not None and ended.result["total"] == 1
    assert refusal(house) is None


def test_the_last_word_stands(house: House) -> None:
    """Drained, to serve again, and drained once more, while the first drain still is to end."""
    house.spawn()
    first = house.ask(MAINTENANCE, mode="on")
    wait_asked(house)
    off = house.ask(MAINTENANCE, mode="off")
    last = house.ask(MAINTENANCE, mode="on")
    assert house.end_of(first).state is OperationState.CANCELLED
    assert house.end_of(off).state is OperationState.SUCCEEDED
    wait_asked(house, 2)
    assert refusal(house) == "HostDisabled"
    house.do("cancel_operation", target=last)
    assert refusal(house) == "HostDisabled"
    assert house.do(MAINTENANCE, mode="off").result == {"reasons": {}}
    assert refusal(house) is None

# SPDX-License-Identifier: Apache-2.0
"""The image cache is kept small by operations of the agent's own, at an interval and never in doubt."""

from collections.abc import Iterator

import pytest

from compute_agent.conf import CONF
from compute_agent.manager import housekeeping
from compute_agent.manager.housekeeping import Housekeeper
from compute_agent.manager.timekeeping import CLOCK, Timekeeper
from compute_agent.model.operation import Operation, OperationState, Origin
from tests.unit.house import House

INTERVAL_S = 100


class Monotonic:
    """A clock that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Monotonic]:
    made = Monotonic()
    monkeypatch.setattr(housekeeping, "time", made)
    CONF.set_override("manager_interval", INTERVAL_S, group="image_cache")
    yield made
    CONF.clear_override("manager_interval", group="image_cache")


@pytest.fixture
def keeper(house: House, passing: Monotonic) -> Housekeeper:
    return Housekeeper(house.manager, Timekeeper(house.manager))


def ended(house: House, operation_id: str | None) -> Operation:
    assert operation_id is not None
    return house.end_of(operation_id)


def test_a_round_is_an_operation_of_the_agents_own_at_each_interval(
    house: House, keeper: Housekeeper, passing: Monotonic
) -> None:
    assert keeper.look() is None
    passing.now += INTERVAL_S
    operation = ended(house, keeper.look())
    assert (operation.verb, operation.origin) == ("manage_image_cache", Origin.AGENT)
    assert operation.state is OperationState.SUCCEEDED
    assert keeper.look() is None
    passing.now += INTERVAL_S
    assert ended(house, keeper.look()).operation_id != operation.operation_id


def test_no_round_is_made_while_the_clock_or_the_hypervisor_is_in_doubt(
    house: House, keeper: Housekeeper, passing: Monotonic
) -> None:
    passing.now += INTERVAL_S
    house.manager.health[CLOCK] = "it jumped"
    assert keeper.look() is None
    del house.manager.health[CLOCK]
    house.manager.hypervisor_away = "it is away"
    assert keeper.look() is None
    house.manager.hypervisor_away = None
    assert ended(house, keeper.look()).state is OperationState.SUCCEEDED


def test_an_interval_of_zero_makes_none(keeper: Housekeeper, passing: Monotonic) -> None:
    CONF.set_override("manager_interval", 0, group="image_cache")
    passing.now += 10 * INTERVAL_S
    assert keeper.look() is None

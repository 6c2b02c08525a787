# SPDX-License-Identifier: Apache-2.0
"""Soft-deleted instances are destroyed when their time is over, never before, whatever the clocks do."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.manager import overdue, reclaim
from compute_agent.manager.reclaim import Reclaimer
from compute_agent.model import clock
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.states import InstanceState, PowerState
from compute_agent.store import host as host_store
from compute_agent.store import instances
from tests.unit.house import House

INTERVAL_S = 3600


class Clocks:
    """The host's uptime and boot, as the agent is told of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self._boot = path / "boot_id"
        self.uptime = 1000.0
        self.boot("one")
        monkeypatch.setattr(clock, "uptime", lambda: self.uptime)
        monkeypatch.setattr(overdue, "BOOT_ID", self._boot)

    def boot(self, name: str, uptime: float = 1000.0) -> None:
        self._boot.write_text(f"{name}\n")
        self.uptime = uptime


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clocks:
    return Clocks(monkeypatch, tmp_path)


@pytest.fixture(autouse=True)
def interval() -> Iterator[None]:
    if not CONF._namespace:
        CONF([])
    CONF.set_override("reclaim_instance_interval", INTERVAL_S)
    yield
    CONF.clear_override("reclaim_instance_interval")


def soft_deleted(house: House) -> str:
    uuid = house.spawn()
    assert house.do("soft_delete", instance_uuid=uuid).error is None
    return uuid


def test_one_whose_time_is_over_is_destroyed_by_the_agent(house: House, clocks: Clocks) -> None:
    uuid, other = soft_deleted(house), house.spawn()
    reclaimer = Reclaimer(house.manager)
    clocks.uptime += INTERVAL_S - 1
    assert reclaimer.look() == []
    clocks.uptime += 1
    (operation_id,) = reclaimer.look()
    done = house.end_of(operation_id)
    assert (done.verb, done.origin.value, done.instance_uuid, done.error) == ("destroy", "agent", uuid, None)
    assert uuid not in house.driver.hypervisor.world.domains
    assert uuid not in house.driver.hypervisor.world.directories
    assert house.record(other).state is InstanceState.ACTIVE
    assert [event.instance_uuid for event in house.events("instance.removed")] == [uuid]
    assert reclaimer.look() == []


def test_after_its_reclaim_a_restore_says_that_it_is_gone(house: House, clocks: Clocks) -> None:
    uuid = soft_deleted(house)
    clocks.uptime += INTERVAL_S
    (operation_id,) = Reclaimer(house.manager).look()
    house.end_of(operation_id)
    error = house.do("restore", instance_uuid=uuid).error
    assert error is not None and error.code == "InstanceNotFound"


def test_one_that_was_restored_is_left_alone_and_its_time_begins_anew(house: House, clocks: Clocks) -> None:
    uuid = soft_deleted(house)
    reclaimer = Reclaimer(house.manager)
    clocks.uptime += INTERVAL_S - 1
    assert house.do("restore", instance_uuid=uuid).error is None
    assert house.do("soft_delete", instance_uuid=uuid).error is None
    clocks.uptime += INTERVAL_S - 1
    assert reclaimer.look() == []
    assert house.record(uuid).state is InstanceState.SOFT_DELETED


def test_without_an_interval_it_stays(house: House, clocks: Clocks) -> None:
    CONF.set_override("reclaim_instance_interval", 0)
    soft_deleted(house)
    clocks.uptime += 10 * INTERVAL_S
    assert Reclaimer(house.manager).look() == []


def test_a_restart_of_the_agent_changes_nothing(house: House, clocks: Clocks) -> None:
    uuid = soft_deleted(house)
    clocks.uptime += INTERVAL_S / 2
    house.crash()
    clocks.uptime += INTERVAL_S / 2
    (operation_id,) = Reclaimer(house.manager).look()
    assert house.end_of(operation_id).instance_uuid == uuid


def test_the_wall_clock_may_say_what_it_likes(
    house: House, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft_deleted(house)
    reclaimer = Reclaimer(house.manager)
    now = clock.unix()
    monkeypatch.setattr(clock, "unix", lambda: now + 100 * INTERVAL_S)
    assert reclaimer.look() == []
    monkeypatch.setattr(clock, "unix", lambda: now - 100 * INTERVAL_S)
    clocks.uptime += INTERVAL_S
    assert len(reclaimer.look()) == 1


def test_what_was_counted_outlives_a_boot_and_the_time_off_does_not_count(
    house: House, clocks: Clocks
) -> None:
    soft_deleted(house)
    clocks.uptime += INTERVAL_S / 2
    Reclaimer(house.manager).look()
    clocks.boot("two", uptime=5000.0)
    after = Reclaimer(house.manager)
    assert after.look() == []
    clocks.uptime += INTERVAL_S / 2 - 1
    assert after.look() == []
    clocks.uptime += 1
    assert len(after.look()) == 1


@pytest.mark.parametrize("kept", [None, "nonsense", "[]"])
def test_one_of_whom_nothing_was_kept_has_all_its_time_before_it(
    house: House, clocks: Clocks, kept: str | None
) -> None:
    soft_deleted(house)
    clocks.uptime += INTERVAL_S
    house.store.write(
        lambda tx: host_store.drop(tx, reclaim.KEY) if kept is None else host_store.put(tx, reclaim.KEY, kept)
    )
    reclaimer = Reclaimer(house.manager)
    assert reclaimer.look() == []
    clocks.uptime += INTERVAL_S
    assert len(reclaimer.look()) == 1


def test_nothing_is_kept_of_those_who_are_gone(house: House, clocks: Clocks) -> None:
    uuid = soft_deleted(house)
    Reclaimer(house.manager).look()
    assert uuid in house.store.read(reclaim.kept)
    assert house.do("destroy", instance_uuid=uuid).error is None
    Reclaimer(house.manager).look()
    assert house.store.read(reclaim.kept) == {}


def test_one_that_somebody_started_is_not_reclaimed(house: House, clocks: Clocks) -> None:
    uuid = soft_deleted(house)
    record = house.record(uuid)
    up: InstanceRecord = msgspec.structs.replace(record, power_state=PowerState.RUNNING)
    house.store.write(lambda tx: instances.put(tx, up))
    clocks.uptime += INTERVAL_S
    assert Reclaimer(house.manager).look() == []


def test_one_for_which_something_is_under_way_is_left_alone(house: House, clocks: Clocks) -> None:
    uuid = soft_deleted(house)
    clocks.uptime += INTERVAL_S
    house.driver.faults.slow("restore", 1.0)
    restore = house.ask("restore", instance_uuid=uuid)
    assert Reclaimer(house.manager).look() == []
    assert house.end_of(restore).error is None
    assert house.record(uuid).state is InstanceState.ACTIVE


def test_a_reclaim_that_fails_is_asked_for_again_later(
    house: House, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = soft_deleted(house)
    clocks.uptime += INTERVAL_S
    reclaimer = Reclaimer(house.manager)
    house.driver.faults.fail("destroy.undefine", times=1)
    (operation_id,) = reclaimer.look()
    assert house.end_of(operation_id).error is not None
    assert reclaimer.look() == []
    monkeypatch.setattr(overdue, "AGAIN_S", 0.0)
    (again,) = reclaimer.look()
    assert house.end_of(again).error is None
    assert uuid not in house.driver.hypervisor.world.domains


def test_nothing_is_reclaimed_while_the_hypervisor_is_away(house: House, clocks: Clocks) -> None:
    soft_deleted(house)
    clocks.uptime += INTERVAL_S
    house.manager.hypervisor_away = "it was told to go"
    assert Reclaimer(house.manager).look() == []

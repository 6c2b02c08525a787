# SPDX-License-Identifier: Apache-2.0
"""What a guest or a person does while a verb ends is not overwritten by what the verb meant it to be."""

from collections.abc import Iterator

import pytest

from compute_agent import concurrency, failpoints
from compute_agent.model import errors
from compute_agent.model.states import InstanceState, PowerState
from compute_agent.operations.entry import Entry
from tests.unit.house import House


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.observe(None)
    failpoints.arm("")


def pause(house: House, uuid: str) -> None:
    house.driver.hypervisor.pause(uuid, origin="guest")


def assert_paused(house: House, uuid: str) -> None:
    assert house.events("instance.lifecycle.paused")
    record = house.record(uuid)
    assert (record.state, record.power_state) == (InstanceState.PAUSED, PowerState.PAUSED)


def test_a_guest_that_is_paused_before_the_verb_returns_is_paused(house: House) -> None:
    uuid = house.spawn()
    failpoints.observe(lambda name: pause(house, uuid) if name == "reboot.done" else None)
    assert house.do("reboot", instance_uuid=uuid, reboot_type="HARD").error is None
    assert_paused(house, uuid)


def test_a_guest_that_is_paused_while_the_end_is_written_is_paused(house: House) -> None:
    uuid = house.spawn()
    engine, observed = house.manager.engine, house.manager.observer.before_end

    def then_paused(entry: Entry, error: errors.ComputeError | None) -> None:
        observed(entry, error)
        pause(house, uuid)

    engine.hooks.before_end = then_paused
    assert house.do("reboot", instance_uuid=uuid, reboot_type="HARD").error is None
    assert_paused(house, uuid)


def test_what_the_verb_itself_did_last_is_what_it_is(house: House) -> None:
    uuid = house.spawn()
    failpoints.observe(lambda name: pause(house, uuid) if name == "reboot.stop.before" else None)
    assert house.do("reboot", instance_uuid=uuid, reboot_type="HARD").error is None
    house.events()
    record = house.record(uuid)
    assert (record.state, record.power_state) == (InstanceState.ACTIVE, PowerState.RUNNING)


def crash_unseen(house: House, uuid: str) -> None:
    """End a guest while the agent is as good as dead."""
    house.driver.register_event_listener(lambda event: None)
    house.driver.hypervisor.crash(uuid)


def assert_found_crashed(house: House, uuid: str) -> None:
    house.settle()
    house.events()
    record = house.record(uuid)
    assert (record.state, record.power_state) == (InstanceState.STOPPED, PowerState.CRASHED)


def test_a_crash_while_the_agent_was_away_is_found_though_a_verb_waits(house: House) -> None:
    uuid = house.spawn()
    house.manager.engine.stop(0)  # nothing begins any more
    house.ask("unpause", instance_uuid=uuid)  # it has nothing to do, and does not look
    crash_unseen(house, uuid)
    house.crash()
    assert_found_crashed(house, uuid)


def test_a_crash_while_the_agent_was_away_is_found_though_a_verb_may_not_go_on(house: House) -> None:
    uuid = house.spawn()
    reached = concurrency.Event()
    failpoints.observe(lambda name: reached.set() if name == "set_admin_password.begun" else None)
    failpoints.arm("set_admin_password.begun=hang")
    house.ask("set_admin_password", instance_uuid=uuid, new_pass="a secret")
    assert reached.wait(30)
    failpoints.arm("")
    crash_unseen(house, uuid)
    house.crash()
    assert_found_crashed(house, uuid)
    assert house.events("operation.failed")[-1].data["error"]["code"] == "Interrupted"

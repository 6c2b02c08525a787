# SPDX-License-Identifier: Apache-2.0
"""After a boot of the host, with ``on_host_boot = confirm``: guests start by a word given since, or never."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from compute_agent.conf import CONF
from compute_agent.model.operation import OperationState
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.operations.acceptance import propose
from compute_agent.store import journal
from tests.unit.house import House


@pytest.fixture
def confirming() -> Iterator[None]:
    CONF.set_override("on_host_boot", "confirm")
    yield
    CONF.clear_override("on_host_boot")


def interrupted(house: House, verb: str, **values: Any) -> str:
    """Journal an operation as one that was running when everything ended."""
    operation_id = str(uuid.uuid4())
    engine = house.manager.engine
    engine.stop(5)
    values["operation_id"] = operation_id
    engine.accept([propose(house.manager.table[verb], verb, operation_id, values)])
    return operation_id


def outcome(house: House, operation_id: str) -> tuple[OperationState, str]:
    operation = house.store.read(lambda tx: journal.find(tx, operation_id))
    assert operation is not None
    return operation.state, operation.error.code if operation.error else ""


def power(house: House, guest: str) -> PowerState:
    return house.driver.get_all_info()[guest].state


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [("reboot", {"reboot_type": "HARD"}), ("power_on", {}), ("rebuild", {"image": {"url": "file:///i/b"}})],
)
def test_what_was_asked_before_the_boot_starts_nobody(
    house: House, confirming: None, verb: str, arguments: dict[str, Any]
) -> None:
    guest = house.spawn()
    operation_id = interrupted(house, verb, instance_uuid=guest, **arguments)
    house.boot(guest)
    assert outcome(house, operation_id) == (OperationState.FAILED, "Interrupted")
    assert power(house, guest) is PowerState.SHUTDOWN
    assert house.record(guest).state is S.STOPPED
    assert house.do("confirm_instances", instance_uuids=[guest]).error is None


def test_a_word_given_before_the_boot_counts_no_more(house: House, confirming: None) -> None:
    guest = house.spawn()
    house.boot(guest)
    operation_id = interrupted(house, "confirm_instances", instance_uuids=[guest])
    house.boot()
    assert outcome(house, operation_id) == (OperationState.FAILED, "Interrupted")
    assert power(house, guest) is PowerState.SHUTDOWN
    assert [one["uuid"] for one in house.events("host.hello")[-1].data["instances"]] == [guest]


def test_a_spawn_that_the_boot_interrupted_makes_no_guest(house: House, confirming: None) -> None:
    instance = {
        "uuid": str(uuid.uuid4()),
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": "file:///i/a"},
    }
    operation_id = interrupted(house, "spawn", instance=instance)
    house.boot()
    assert outcome(house, operation_id) == (OperationState.FAILED, "Interrupted")
    assert instance["uuid"] not in house.driver.get_all_info()


def test_what_starts_nobody_goes_on_after_the_boot(house: House, confirming: None) -> None:
    guest = house.spawn()
    operation_id = interrupted(house, "destroy", instance_uuid=guest)
    house.boot(guest)
    assert outcome(house, operation_id) == (OperationState.SUCCEEDED, "")
    assert guest not in house.driver.get_all_info()


def test_otherwise_what_was_asked_before_the_boot_is_done_after_it(house: House) -> None:
    guest = house.spawn()
    operation_id = interrupted(house, "reboot", instance_uuid=guest, reboot_type="HARD")
    house.boot(guest)
    assert outcome(house, operation_id) == (OperationState.SUCCEEDED, "")
    assert power(house, guest) is PowerState.RUNNING

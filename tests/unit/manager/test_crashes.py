# SPDX-License-Identifier: Apache-2.0
"""What is told and what is left when the agent is killed, or fails, in the middle of a verb."""

from collections.abc import Iterator

import msgspec
import pytest

from compute_agent import concurrency, failpoints
from compute_agent.model.states import InstanceState as S
from compute_agent.store import journal
from compute_agent.store.database import Transaction
from tests.unit.house import House

INSTANCE = {
    "uuid": "11111111-1111-4111-8111-111111111111",
    "flavor": {"vcpus": 1, "memory_mb": 64},
    "image": {"url": "file:///i/a"},
}


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.observe(None)
    failpoints.arm("")


def crash_at(
    house: House, point: str, verb: str, *, deaf: bool = False, attempts: int = 1, **arguments: object
) -> None:
    """Kill the agent at a point of a verb, and let its next life end the verb.

    :param deaf: what the verb did until then was not written down
    :param attempts: how many it had made until then
    """
    if deaf:
        house.driver.register_event_listener(lambda event: None)
    reached = concurrency.Event()
    failpoints.observe(lambda name: reached.set() if name == point else None)
    failpoints.arm(f"{point}=hang")
    operation_id = house.ask(verb, **arguments)
    assert reached.wait(5)
    failpoints.observe(None)
    failpoints.arm("")
    house.store.write(lambda tx: made(tx, operation_id, attempts))
    house.crash()
    house.settle()


def made(tx: Transaction, operation_id: str, attempts: int) -> None:
    operation = journal.find(tx, operation_id)
    assert operation is not None
    journal.update(tx, msgspec.structs.replace(operation, attempts=attempts))


def lifecycle(house: House) -> list[str]:
    prefix = "instance.lifecycle."
    return [event.type.removeprefix(prefix) for event in house.events() if event.type.startswith(prefix)]


def test_an_operation_that_goes_on_tells_what_it_does_once(house: House) -> None:
    crash_at(house, "spawn.begun", "spawn", instance=INSTANCE)
    assert lifecycle(house) == ["started"]


def test_a_destroy_that_was_killed_after_the_stop_tells_of_it(house: House) -> None:
    uuid = house.spawn()
    crash_at(house, "destroy.disks.before", "destroy", deaf=True, instance_uuid=uuid)
    assert lifecycle(house) == ["started", "stopped"]


def test_a_reboot_that_was_killed_between_stop_and_start_tells_both(house: House) -> None:
    uuid = house.spawn()
    crash_at(house, "reboot.start.before", "reboot", deaf=True, instance_uuid=uuid, reboot_type="HARD")
    assert lifecycle(house) == ["started", "stopped", "started"]


def test_a_reboot_that_was_killed_at_its_end_is_not_done_again(house: House) -> None:
    uuid = house.spawn()
    crash_at(house, "reboot.done", "reboot", instance_uuid=uuid, reboot_type="HARD")
    assert house.driver.hypervisor.get(uuid).starts == 2


def test_what_a_spawn_made_stays_on_record_when_its_end_fails(house: House) -> None:
    failpoints.arm("spawn.done=raise")
    assert house.do("spawn", instance=INSTANCE).error is not None
    failpoints.arm("")
    uuid = str(INSTANCE["uuid"])
    assert house.record(uuid).state is S.ERROR
    assert house.do("destroy", instance_uuid=uuid).error is None
    assert house.driver.hypervisor.find(uuid) is None


def test_a_destroy_that_fails_when_the_guest_is_gone_leaves_it_in_error(house: House) -> None:
    """Off is what a guest is that can be switched on again."""
    uuid = house.spawn()
    failpoints.arm("destroy.volumes.before=raise")
    assert house.do("destroy", instance_uuid=uuid).error is not None
    failpoints.arm("")
    assert house.record(uuid).state is S.ERROR
    assert house.do("destroy", instance_uuid=uuid).error is None


def test_a_destroy_of_a_suspended_guest_that_fails_after_the_stop_leaves_it_stopped(house: House) -> None:
    uuid = house.spawn()
    house.do("suspend", instance_uuid=uuid)
    failpoints.arm("destroy.undefine.before=raise")
    assert house.do("destroy", instance_uuid=uuid).error is not None
    failpoints.arm("")
    assert house.record(uuid).state is S.STOPPED
    assert lifecycle(house) == ["started", "suspended"]


def test_what_could_not_be_undone_is_named_in_the_error(house: House) -> None:
    uuid = house.spawn()
    failpoints.arm("rescue.start.after=raise;rescue.disk.undo=raise")
    failed = house.do("rescue", instance_uuid=uuid).error
    assert failed is not None
    assert (failed.hint or "").startswith("not undone: disk")


def test_an_attachment_that_fails_is_taken_back(house: House) -> None:
    uuid = house.spawn()
    volume = {
        "volume_id": "v",
        "connection_info": {"driver_volume_type": "iscsi", "data": {"volume_id": "v"}},
    }
    vif = {"id": "vif-1", "address": "52:54:00:00:00:01", "bridge": "br0"}
    failpoints.arm("attach_volume.device.after=raise;attach_interface.device.after=raise")
    assert house.do("attach_volume", instance_uuid=uuid, volume=volume).error is not None
    assert house.do("attach_interface", instance_uuid=uuid, vif=vif).error is not None
    failpoints.arm("")
    world = house.driver.hypervisor.world
    assert (uuid in world.volumes, uuid in world.plugged) == (False, False)
    assert "v" not in {device.source for device in world.domains[uuid].devices.values()}
    assert world.domains[uuid].nics == {}


def test_an_unrescue_that_fails_leaves_the_guest_rescued(house: House) -> None:
    uuid = house.spawn()
    house.do("rescue", instance_uuid=uuid)
    before = house.driver.hypervisor.get(uuid).devices
    failpoints.arm("unrescue.disk.after=raise")
    assert house.do("unrescue", instance_uuid=uuid).error is not None
    failpoints.arm("")
    domain = house.driver.hypervisor.get(uuid)
    assert (domain.devices, domain.is_up, house.record(uuid).state) == (before, True, S.RESCUED)
    assert house.do("unrescue", instance_uuid=uuid).error is None


@pytest.mark.parametrize("before", [None, "rescue", "pause"])
def test_a_half_done_destroy_that_is_given_up_leaves_no_record_of_a_guest(
    house: House, before: str | None
) -> None:
    uuid = house.spawn()
    if before is not None:
        assert house.do(before, instance_uuid=uuid).error is None
    crash_at(house, "destroy.disks.before", "destroy", deaf=True, attempts=99, instance_uuid=uuid)
    record = house.record(uuid)
    assert record.state is S.ERROR
    assert record.error is not None
    assert record.error.code == "Interrupted"
    assert house.do("destroy", instance_uuid=uuid).error is None


def test_a_half_done_destroy_of_a_rescued_guest_that_fails_leaves_no_record_of_one(house: House) -> None:
    uuid = house.spawn()
    house.do("rescue", instance_uuid=uuid)
    failpoints.arm("destroy.disks.before=raise")
    assert house.do("destroy", instance_uuid=uuid).error is not None
    assert house.record(uuid).state is S.ERROR

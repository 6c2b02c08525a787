# SPDX-License-Identifier: Apache-2.0
"""Snapshots of fake guests and of their volumes; quiesce."""

import pytest

from compute_agent.model import errors
from compute_agent.model.arguments import Destination
from compute_agent.model.states import PowerState
from tests.unit.virt.fake.conftest import PLAIN_IMAGE, Host, make_instance

DESTINATION = Destination(url="https://store.example.org/copy")


def told(states: list[str]) -> object:
    return lambda task_state, expected_state=None: states.append(task_state)


def test_a_snapshot_says_how_far_it_is_and_leaves_the_guest_running(host: Host) -> None:
    instance = host.spawn()
    files = host.world.directories[instance.uuid]
    states: list[str] = []
    result = host.driver.snapshot(None, instance, DESTINATION, told(states))  # type: ignore[arg-type]
    assert states == ["image_pending_upload", "image_uploading"]
    assert result == {"url": DESTINATION.url, "size_bytes": 2**30}
    assert host.world.host.uploads == {DESTINATION.url: instance.uuid}
    assert host.world.directories[instance.uuid] == files
    assert host.driver.get_info(instance).state is PowerState.RUNNING
    assert host.events == []


@pytest.mark.parametrize("step", ["copy", "upload"])
def test_a_snapshot_that_fails_leaves_no_file(host: Host, step: str) -> None:
    instance = host.spawn()
    files = host.world.directories[instance.uuid]
    host.driver.faults.fail(f"snapshot.{step}")
    with pytest.raises(errors.HypervisorError):
        host.driver.snapshot(None, instance, DESTINATION, told([]))  # type: ignore[arg-type]
    assert host.world.directories[instance.uuid] == files


def test_an_interrupted_snapshot_is_cleared_away(host: Host) -> None:
    instance = host.spawn()
    files = host.world.directories[instance.uuid]
    host.driver.faults.fail("snapshot.upload")
    host.driver.faults.fail("snapshot.copy.undo")
    with pytest.raises(errors.HypervisorError):
        host.driver.snapshot(None, instance, DESTINATION, told([]))  # type: ignore[arg-type]
    assert host.world.directories[instance.uuid] != files
    for _ in range(2):
        host.driver.post_interrupted_snapshot_cleanup(None, instance)
        assert host.world.directories[instance.uuid] == files


def test_a_destination_that_can_not_be_reached_fails_it(host: Host) -> None:
    host.driver.hypervisor.unreachable.add(DESTINATION.url)
    with pytest.raises(errors.ImageUnavailable):
        host.driver.snapshot(None, host.spawn(), DESTINATION, told([]))  # type: ignore[arg-type]


def test_a_guest_without_a_disk_of_its_own_has_nothing_to_copy(host: Host) -> None:
    instance = host.spawn(image=None, kernel="https://images.example.org/k")
    with pytest.raises(errors.InvalidState):
        host.driver.snapshot(None, instance, DESTINATION, told([]))  # type: ignore[arg-type]


def test_the_older_form_takes_a_number_or_a_name(host: Host) -> None:
    numbered = host.spawn(name="instance-0000002a")
    host.driver.snapshot_instance(None, 42, DESTINATION)
    assert host.world.host.uploads == {DESTINATION.url: numbered.uuid}
    with pytest.raises(errors.InstanceNotFound):
        host.driver.snapshot_instance(None, "nobody", DESTINATION)


def test_points_in_a_volumes_chain_come_and_go(host: Host) -> None:
    instance = host.spawn()
    volume = instance.block_device_mapping[0].volume_id or ""
    before = dict(host.driver.hypervisor.get(instance.uuid).devices)
    for _ in range(2):
        host.driver.volume_snapshot_create(None, instance, volume, {"snapshot_id": "s1"})
    devices = host.driver.hypervisor.get(instance.uuid).devices.values()
    assert [d.chain for d in devices if d.source == volume] == [["s1"]]
    for _ in range(2):
        host.driver.volume_snapshot_delete(None, instance, volume, "s1", {})
    assert host.driver.hypervisor.get(instance.uuid).devices == before
    with pytest.raises(errors.VolumeUnavailable):
        host.driver.volume_snapshot_create(None, instance, "other", {"snapshot_id": "s1"})


def test_quiesce_and_unquiesce_are_a_pair(host: Host) -> None:
    instance = host.spawn()
    for freeze, frozen in ((host.driver.quiesce, True), (host.driver.unquiesce, False)):
        for _ in range(2):
            freeze(None, instance, instance.image)
            assert host.driver.hypervisor.get(instance.uuid).frozen is frozen


def test_a_guest_without_an_agent_can_not_be_frozen(host: Host) -> None:
    instance = host.spawn(image=PLAIN_IMAGE)
    with pytest.raises(errors.QuiesceNotSupported):
        host.driver.quiesce(None, instance, instance.image)
    with pytest.raises(errors.InstanceNotFound):
        host.driver.quiesce(None, make_instance(), None)
    host.driver.power_off(instance)
    with pytest.raises(errors.InvalidState):
        host.driver.quiesce(None, instance, instance.image)

# SPDX-License-Identifier: Apache-2.0
"""Guests move between two fake hosts of one process."""

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from compute_agent import concurrency
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.block_device import get_block_device_info
from compute_agent.virt.fake.hypervisor import Size
from compute_agent.virt.info import LiveMigrateData
from tests.unit.virt.fake.conftest import Host, make_instance


@pytest.fixture
def other() -> Iterator[Host]:
    made = Host("node-2")
    yield made
    made.driver.cleanup_host(made.name)


def checked(host: Host, other: Host, instance: Instance, block: bool | None = None) -> LiveMigrateData:
    here = host.driver.get_available_resource(host.name)
    there = other.driver.get_available_resource(other.name)
    data = other.driver.check_can_live_migrate_destination(None, instance, here, there, block)
    return host.driver.check_can_live_migrate_source(None, instance, data)


class Ends:
    """What is called at the end of a migration."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def post(self, *arguments: Any) -> None:
        self.calls.append("post")

    def recover(self, *arguments: Any) -> None:
        self.calls.append("recover")


def migrate(host: Host, other: Host, instance: Instance, dest: str | None = None) -> Ends:
    ends = Ends()
    data = checked(host, other, instance)
    info = get_block_device_info(instance, instance.block_device_mapping)
    other.driver.pre_live_migration(None, instance, info, instance.network_info, None, data)
    host.driver.live_migration(None, instance, dest or other.name, ends.post, ends.recover, True, data)
    return ends


def finish(host: Host, other: Host, instance: Instance) -> None:
    host.driver.post_live_migration(None, instance, None)
    host.driver.post_live_migration_at_source(None, instance, instance.network_info)
    other.driver.post_live_migration_at_destination(None, instance, instance.network_info)


def test_a_live_migration_moves_everything_and_tells_both_ends(host: Host, other: Host) -> None:
    instance = host.spawn()
    was = copy.deepcopy(host.driver.hypervisor.get(instance.uuid))
    assert migrate(host, other, instance).calls == ["post"]
    finish(host, other, instance)
    assert host.events == ["Migration completed"]
    assert other.events == ["Started"]
    assert other.driver.hypervisor.get(instance.uuid) == was
    assert host.nothing_is_left()
    assert host.driver.get_migration_status(instance).status == "completed"
    other.driver.destroy(None, instance, instance.network_info)
    assert other.nothing_is_left()


def test_what_can_not_move_is_refused_before_anything_is_changed(host: Host, other: Host) -> None:
    instance = host.spawn()
    with pytest.raises(errors.MigrationRefused, match="share no storage"):
        checked(host, other, instance, block=False)
    other.driver.hypervisor.size = Size(vcpus=1, memory_mb=10, local_gb=1)
    with pytest.raises(errors.MigrationRefused, match="MiB"):
        checked(host, other, instance)
    host.driver.power_off(instance)
    other.driver.hypervisor.size = Size(vcpus=8, memory_mb=1000, local_gb=1)
    with pytest.raises(errors.MigrationRefused, match="off"):
        checked(host, other, instance)
    other.driver.check_can_live_migrate_destination_cleanup(
        None, LiveMigrateData(instance_uuid=instance.uuid)
    )
    assert other.nothing_is_left()


def test_a_migration_that_fails_leaves_the_guest_where_it_was(host: Host, other: Host) -> None:
    instance = host.spawn()
    host.driver.faults.fail("live_migration.transfer")
    ends = Ends()
    with pytest.raises(errors.MigrationFailed):
        host.driver.live_migration(None, instance, other.name, ends.post, ends.recover)
    assert ends.calls == ["recover"]
    assert host.driver.get_info(instance).state is PowerState.RUNNING
    assert host.driver.get_migration_status(instance).status == "failed"
    assert host.events == other.events == []


def test_a_destination_without_room_gives_the_guest_back(host: Host, other: Host) -> None:
    instance = host.spawn()
    other.driver.hypervisor.size = Size(vcpus=8, memory_mb=10, local_gb=10)
    ends = Ends()
    with pytest.raises(errors.MigrationFailed):
        host.driver.live_migration(None, instance, other.name, ends.post, ends.recover)
    assert host.driver.get_info(instance).state is PowerState.RUNNING
    assert not other.driver.instance_exists(instance)


def test_a_destination_that_does_not_answer_fails_it(host: Host, other: Host) -> None:
    instance = host.spawn()
    with pytest.raises(errors.MigrationFailed):
        migrate(host, other, instance, dest="nowhere")
    for _ in range(2):
        other.driver.rollback_live_migration_at_destination(None, instance, instance.network_info, None)
    assert other.nothing_is_left()
    assert host.driver.get_info(instance).state is PowerState.RUNNING


@pytest.mark.parametrize(
    ("member", "calls", "status"),
    [
        ("live_migration_abort", ["recover"], "cancelled"),
        ("live_migration_force_complete", ["post"], "completed"),
    ],
)
def test_a_migration_under_way_can_be_ended(
    host: Host, other: Host, member: str, calls: list[str], status: str
) -> None:
    instance = host.spawn()
    host.driver.transfer_time = 60
    ends = Ends()

    def move() -> None:
        try:
            host.driver.live_migration(None, instance, other.name, ends.post, ends.recover)
        except errors.MigrationFailed:
            ends.calls.append("failed")

    task = concurrency.spawn(move)
    concurrency.sleep(0)
    assert host.driver.get_migration_status(instance).status == "running"
    getattr(host.driver, member)(instance)
    task.wait()
    assert ends.calls[:1] == calls
    assert host.driver.get_migration_status(instance).status == status
    with pytest.raises(errors.InvalidState):
        getattr(host.driver, member)(instance)


def test_an_instance_that_never_moved_has_no_migration(host: Host) -> None:
    assert host.driver.get_migration_status(make_instance()).status == "none"


def test_hosts_of_one_kind_have_the_same_processor(host: Host, other: Host) -> None:
    other.driver.compare_cpu(host.driver.get_available_resource(host.name)["cpu_info"])
    with pytest.raises(errors.MigrationRefused):
        other.driver.compare_cpu("real")


def test_marks_show_shared_storage(host: Host, other: Host) -> None:
    instance = host.spawn()
    mark = host.driver.check_instance_shared_storage_local(None, instance)
    assert host.driver.check_instance_shared_storage_remote(None, mark)
    assert not other.driver.check_instance_shared_storage_remote(None, mark)
    host.driver.check_instance_shared_storage_cleanup(None, mark)
    assert not host.driver.check_instance_shared_storage_remote(None, mark)


def test_maintenance_moves_every_guest_away(host: Host, other: Host) -> None:
    instances = [host.spawn(block_device_mapping=[]) for _ in range(3)]
    assert host.driver.host_maintenance_mode(host.name, True) == "on_maintenance"
    assert set(other.driver.list_instance_uuids()) == {instance.uuid for instance in instances}
    assert host.nothing_is_left()
    assert not host.world.host.enabled
    assert host.driver.host_maintenance_mode(host.name, False) == "off_maintenance"
    host.spawn()


def test_maintenance_without_another_host_changes_nothing(host: Host) -> None:
    host.spawn()
    with pytest.raises(errors.MigrationRefused):
        host.driver.host_maintenance_mode(host.name, True)
    assert host.world.host.enabled


# --- cold ------------------------------------------------------------------------------------------

LARGER = Flavor(vcpus=2, memory_mb=128, root_gb=2)


def cold(host: Host, other: Host, instance: Instance) -> Instance:
    disks = host.driver.migrate_disk_and_power_off(None, instance, other.name, LARGER, instance.network_info)
    resized = msgspec.structs.replace(instance, flavor=LARGER)
    info = get_block_device_info(resized, resized.block_device_mapping)
    other.driver.finish_migration(
        None, None, resized, disks, resized.network_info, resized.image, True, block_device_info=info
    )
    return resized


def test_a_cold_migration_is_confirmed(host: Host, other: Host) -> None:
    instance = host.spawn()
    resized = cold(host, other, instance)
    assert (host.events, other.events) == (["Stopped"], ["Started"])
    assert other.driver.get_info(resized).num_cpu == 2
    assert other.world.directories[instance.uuid].disks["disk"].size == 2 * 2**30
    assert not host.driver.instance_exists(instance)
    for _ in range(2):
        host.driver.confirm_migration(None, None, instance, instance.network_info)
    assert host.nothing_is_left()


def test_a_cold_migration_is_reverted_to_exactly_what_was(host: Host, other: Host) -> None:
    instance = host.spawn()
    host.driver.power_off(instance)
    was = copy.deepcopy(host.driver.hypervisor.get(instance.uuid))
    files = host.world.directories[instance.uuid]
    cold(host, other, instance)
    other.driver.destroy(None, instance, instance.network_info)
    for _ in range(2):
        host.driver.finish_revert_migration(None, instance, instance.network_info, power_on=False)
    assert host.driver.hypervisor.get(instance.uuid) == was
    assert host.world.directories[instance.uuid] == files
    assert other.nothing_is_left()


def test_a_disk_can_not_shrink(host: Host, other: Host) -> None:
    instance = host.spawn(flavor={"root_gb": 5})
    with pytest.raises(errors.MigrationRefused):
        cold(host, other, instance)
    assert host.driver.get_info(instance).state is PowerState.RUNNING


def set_aside(host: Host, other: Host) -> tuple[Instance, LiveMigrateData]:
    """An instance that is set aside, and what both ends have agreed on."""
    instance = host.spawn(flavor={"ephemeral_gb": 1})
    resources = host.driver.get_available_resource(host.name)
    resized = msgspec.structs.replace(instance, flavor=LARGER)
    data = other.driver.check_can_receive_disks(None, resized, resources)
    data = host.driver.check_can_send_disks(None, instance, data, flavor=LARGER)
    data = other.driver.receive_disks(None, resized, data)
    host.driver.migrate_disk_and_power_off(None, instance, other.name, LARGER, instance.network_info)
    return instance, data


def test_what_was_set_aside_is_sent_once_and_goes_on_where_it_was(host: Host, other: Host) -> None:
    instance, data = set_aside(host, other)
    disks = host.world.directories[instance.uuid].aside_disks
    assert host.driver.see_migration(instance, at_source=True) is Fact.PART
    again = other.driver.receive_disks(None, instance, data)
    with pytest.raises(errors.DestinationUnreachable, match="closed"):
        host.driver.send_disks(None, instance, data)
    for _ in range(2):
        host.driver.send_disks(None, instance, again)
    assert other.world.directories[instance.uuid].came == disks
    assert host.driver.see_migration(instance, at_source=True) is Fact.MOVED


def test_what_came_is_removed_and_what_is_aside_stays(host: Host, other: Host) -> None:
    instance, data = set_aside(host, other)
    host.driver.send_disks(None, instance, data)
    for _ in range(2):
        other.driver.drop_received(None, instance, data)
    assert other.nothing_is_left()
    back = msgspec.structs.replace(data, reverting=True)
    host.driver.receive_disks(None, instance, back)
    host.driver.drop_received(None, instance, back)
    assert host.world.directories[instance.uuid].aside is not None
    with pytest.raises(errors.MigrationRefused, match="nothing is set aside"):
        other.driver.receive_disks(None, instance, back)


def test_an_instance_is_resized_and_reverted_on_one_host_by_the_older_members(host: Host) -> None:
    instance = host.spawn()
    files = host.world.directories[instance.uuid]
    host.driver.resize(instance, LARGER)
    assert host.driver.get_info(instance).num_cpu == 2
    host.driver.revert_migration(instance)
    assert host.driver.get_info(instance).num_cpu == 1
    assert host.world.directories[instance.uuid] == files


def test_a_resize_on_one_host_is_confirmed(host: Host) -> None:
    instance = host.spawn()
    host.driver.resize(instance, LARGER)
    host.driver.confirm_migration(None, None, instance, instance.network_info)
    assert host.driver.get_info(instance).num_cpu == 2
    assert host.world.directories[instance.uuid].aside is None
    host.driver.destroy(None, instance, instance.network_info)
    assert host.nothing_is_left()

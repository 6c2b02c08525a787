# SPDX-License-Identifier: Apache-2.0
"""Spawn, destroy, cleanup and rebuild on the fake host."""

import logging

import msgspec
import pytest

from compute_agent import concurrency, steps
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.image import Image
from compute_agent.model.states import PowerState
from compute_agent.virt.block_device import get_block_device_info
from tests.unit.virt.fake.conftest import (
    IMAGE,
    PLAIN_IMAGE,
    Host,
    make_instance,
    spawn,
    spawn_arguments,
    working,
)


def test_spawn_returns_with_a_running_guest_and_its_event_told(host: Host) -> None:
    instance = make_instance()
    spawn(host.driver, instance)
    assert host.events == ["Started"]
    info = host.driver.get_info(instance)
    assert (info.state, info.max_mem_kb, info.num_cpu) == (PowerState.RUNNING, 64 * 1024, 1)
    assert host.driver.instance_exists(instance)
    assert host.driver.instance_on_disk(instance)


def test_spawn_paused_tells_only_that(host: Host) -> None:
    instance = make_instance(start_paused=True)
    spawn(host.driver, instance)
    assert host.events == ["Paused"]
    assert host.driver.get_info(instance).state is PowerState.PAUSED


def test_a_guest_has_what_its_flavor_and_devices_say(host: Host) -> None:
    instance = host.spawn(flavor={"ephemeral_gb": 2, "swap_mb": 256}, config_drive=True)
    devices = host.driver.hypervisor.get(instance.uuid).devices
    assert {d.source for d in devices.values()} == {
        "disk",
        "disk.eph0",
        "disk.swap",
        "disk.config",
        instance.block_device_mapping[0].volume_id,
    }
    assert list(host.world.plugged[instance.uuid]) == [instance.network_info[0].id]


def test_the_description_has_no_secrets(host: Host) -> None:
    instance = host.spawn(generation=7, user_data="c2VjcmV0")
    description = host.driver.get_description(instance.uuid)
    assert description is not None
    assert description.instance is not None
    assert description.instance.user_data is None
    assert description.instance.block_device_mapping[0].connection_info is None
    assert description.instance.metadata == {"role": "test"}
    assert description.generation == 7
    assert description.power_state is PowerState.RUNNING


def test_the_description_names_the_operation(host: Host) -> None:
    instance = make_instance()
    with working("spawn", "op-77"):
        spawn(host.driver, instance)
    description = host.driver.get_description(instance.uuid)
    assert description is not None
    assert description.operation_id == "op-77"


def test_a_changed_description_is_taken_over(host: Host) -> None:
    instance = host.spawn()
    changed = msgspec.structs.replace(instance, generation=9)
    host.driver.set_description(changed)
    description = host.driver.get_description(instance.uuid)
    assert description is not None
    assert description.generation == 9


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("check", errors.HypervisorError),
        ("image", errors.ImageUnavailable),
        ("disks", errors.DiskFull),
        ("network", errors.NetworkUnavailable),
        ("volumes", errors.VolumeUnavailable),
        ("define", errors.HypervisorError),
        ("start", errors.InsufficientResources),
    ],
)
def test_a_spawn_that_fails_anywhere_leaves_nothing(
    host: Host, step: str, error: type[errors.ComputeError]
) -> None:
    host.driver.faults.fail(f"spawn.{step}", error)
    with pytest.raises(error) as raised:
        spawn(host.driver, make_instance())
    assert raised.value.step == step
    assert host.nothing_is_left()
    assert host.events == []


@pytest.mark.parametrize("stops_after", range(8))
def test_an_interrupted_spawn_is_finished_by_the_next_attempt(host: Host, stops_after: int) -> None:
    instance = make_instance()
    with working("spawn"):
        for step in host.driver.spawn_steps(*spawn_arguments(instance))[:stops_after]:
            if not step.done():
                step.do()
    with working("spawn", attempts=2):
        spawn(host.driver, instance)
    assert host.events == ["Started"]
    assert host.driver.get_info(instance).state is PowerState.RUNNING
    assert len(host.world.volumes[instance.uuid]) == 1


@pytest.mark.parametrize("stops_after", range(8))
def test_an_interrupted_spawn_that_is_given_up_leaves_nothing(host: Host, stops_after: int) -> None:
    instance = make_instance()
    with working("spawn"):
        for step in host.driver.spawn_steps(*spawn_arguments(instance))[:stops_after]:
            step.do()
    with working("spawn", attempts=9, undo_only=True), pytest.raises(errors.Interrupted):
        spawn(host.driver, instance)
    assert host.nothing_is_left()


def test_a_second_attempt_that_fails_early_undoes_what_the_first_one_made(host: Host) -> None:
    instance = make_instance()
    with working("spawn"):
        spawn(host.driver, instance)
    host.driver.faults.fail("spawn.network")
    with working("spawn", attempts=2), pytest.raises(errors.HypervisorError):
        spawn(host.driver, instance)
    assert host.nothing_is_left()


def test_another_operation_does_not_touch_what_is_there(host: Host) -> None:
    instance = host.spawn()
    with working("spawn", "op-2"), pytest.raises(errors.InstanceExists):
        spawn(host.driver, instance)
    assert host.events == []
    assert host.driver.get_info(instance).state is PowerState.RUNNING


def test_a_name_is_given_once(host: Host) -> None:
    host.spawn(name="twin")
    with pytest.raises(errors.InstanceExists):
        spawn(host.driver, make_instance(name="twin"))
    assert len(host.world.domains) == len(host.world.directories) == 1


def test_files_that_were_kept_are_not_overwritten(host: Host) -> None:
    instance = host.spawn()
    host.driver.destroy(None, instance, instance.network_info, destroy_disks=False)
    assert host.driver.instance_on_disk(instance)
    with pytest.raises(errors.InstanceExists):
        spawn(host.driver, instance)
    host.driver.cleanup(None, instance, instance.network_info)
    assert host.nothing_is_left()


def test_a_cancelled_spawn_leaves_nothing(host: Host) -> None:
    host.driver.faults.hang("spawn.define")
    reached = host.driver.faults.reached("spawn.define")
    work = steps.Work(operation_id="op-1", verb="spawn")
    failures: list[errors.ComputeError] = []

    def attempt() -> None:
        try:
            with steps.working(work):
                spawn(host.driver, make_instance())
        except errors.ComputeError as error:
            failures.append(error)

    task = concurrency.spawn(attempt)
    assert reached.wait(5)
    work.cancel_requested.set()
    task.wait()
    assert [type(failure) for failure in failures] == [errors.Cancelled]
    assert host.nothing_is_left()


def test_a_plan_changes_nothing(host: Host) -> None:
    image = Image(url="https://images.example.org/three", size_bytes=1000)
    instance = make_instance(image=image)
    planned = steps.plan(host.driver.spawn_steps(*spawn_arguments(instance)))
    names = ["check", "image", "disks", "network", "volumes", "define", "start"]
    assert [step["step"] for step in planned] == names
    assert next(step for step in planned if step["step"] == "image")["bytes"] == 1000
    assert next(step for step in planned if step["step"] == "check")["problems"] == []
    assert host.nothing_is_left()


def test_an_image_that_does_not_fit_is_refused(host: Host) -> None:
    large = Image(url="https://images.example.org/large", size_bytes=2**31)
    with pytest.raises(errors.ImageTooLarge):
        spawn(host.driver, make_instance(image=large))
    assert host.nothing_is_left()


def test_a_volume_of_another_instance_is_busy(host: Host) -> None:
    first = host.spawn()
    devices = [
        BlockDevice(
            source_type=SourceType.VOLUME,
            volume_id=first.block_device_mapping[0].volume_id,
            connection_info=first.block_device_mapping[0].connection_info,
        )
    ]
    with pytest.raises(errors.DeviceBusy):
        spawn(host.driver, make_instance(block_device_mapping=devices))
    assert len(host.world.domains) == len(host.world.directories) == 1


def test_an_instance_boots_from_a_volume_or_a_kernel(host: Host) -> None:
    from_volume = make_instance(image=None)
    spawn(host.driver, from_volume)
    from_kernel = make_instance(image=None, kernel="https://images.example.org/k", block_device_mapping=[])
    spawn(host.driver, from_kernel)
    assert host.events == ["Started", "Started"]


def test_spawn_without_block_device_info_takes_the_instances_own(host: Host) -> None:
    instance = make_instance()
    host.driver.spawn(None, instance, instance.image, [], None, {}, instance.network_info)
    assert instance.block_device_mapping[0].volume_id in host.world.volumes[instance.uuid]


def test_a_disabled_host_takes_no_guests(host: Host) -> None:
    assert host.driver.set_host_enabled(False) == "disabled"
    with pytest.raises(errors.HostDisabled):
        spawn(host.driver, make_instance())
    assert host.driver.set_host_enabled(True) == "enabled"
    host.spawn()


# --- destroy ---------------------------------------------------------------------------------------


def test_destroying_an_unknown_instance_succeeds_with_a_warning(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    instance = make_instance()
    host.driver.destroy(None, instance, instance.network_info)
    assert instance.uuid in caplog.text


@pytest.mark.parametrize("stops_after", range(6))
def test_an_interrupted_destroy_is_finished_by_the_next_attempt(host: Host, stops_after: int) -> None:
    instance = host.spawn()
    for step in host.driver.destroy_steps(None, instance, instance.network_info)[:stops_after]:
        step.do()
    host.driver.destroy(None, instance, instance.network_info)
    assert host.nothing_is_left()
    assert host.events == ["Stopped"]


def test_cleanup_refuses_a_guest_that_is_up(host: Host) -> None:
    instance = host.spawn()
    with pytest.raises(errors.InvalidState):
        host.driver.cleanup(None, instance, instance.network_info)
    assert host.driver.get_info(instance).state is PowerState.RUNNING


def test_deleting_files_may_be_repeated(host: Host) -> None:
    instance = host.spawn()
    host.driver.destroy(None, instance, instance.network_info, destroy_disks=False)
    assert host.driver.delete_instance_files(instance)
    assert host.driver.delete_instance_files(instance)
    assert not host.driver.instance_on_disk(instance)


# --- rebuild ---------------------------------------------------------------------------------------


def rebuild(host: Host, instance: object, **options: object) -> None:
    i = instance
    info = get_block_device_info(i, i.block_device_mapping)  # type: ignore[attr-defined, arg-type]
    host.driver.rebuild(
        None,
        i,  # type: ignore[arg-type]
        PLAIN_IMAGE,
        [],
        None,
        {},
        [],
        None,
        None,
        network_info=i.network_info,  # type: ignore[attr-defined]
        block_device_info=info,
        **options,  # type: ignore[arg-type]
    )


def test_a_rebuild_keeps_all_but_the_disk(host: Host) -> None:
    instance = host.spawn()
    before = host.driver.hypervisor.get(instance.uuid)
    nics, volumes = before.nics, host.world.volumes[instance.uuid]
    assert host.world.directories[instance.uuid].disks["disk"].backing == IMAGE.id
    rebuild(host, instance)
    assert host.events == ["Stopped", "Started"]
    assert host.world.directories[instance.uuid].disks["disk"].backing == PLAIN_IMAGE.id
    assert host.driver.hypervisor.get(instance.uuid).nics == nics
    assert host.world.volumes[instance.uuid] == volumes


def test_a_rebuild_of_nothing_is_refused_unless_it_is_an_evacuation(host: Host) -> None:
    instance = make_instance()
    with pytest.raises(errors.InstanceNotFound):
        rebuild(host, instance)
    rebuild(host, instance, recreate=True)
    assert host.events == ["Started"]


def test_an_interrupted_rebuild_is_finished_by_the_next_attempt(host: Host) -> None:
    instance = host.spawn()
    host.driver.faults.fail("rebuild.start", times=1)
    with working("rebuild", "op-5"), pytest.raises(errors.HypervisorError):
        rebuild(host, instance)
    with working("rebuild", "op-5", attempts=2):
        rebuild(host, instance)
    assert host.events == ["Stopped", "Started"]


def test_a_rebuild_calls_back_for_the_devices(host: Host) -> None:
    instance = host.spawn()
    info = get_block_device_info(instance, [])
    calls: list[str] = []

    def detach(context: object, bdms: object) -> None:
        calls.append("detach")

    def attach(context: object, of: object, bdms: object) -> dict[str, object]:
        calls.append("attach")
        return info

    host.driver.rebuild(None, instance, PLAIN_IMAGE, [], None, {}, [], detach, attach, instance.network_info)
    assert calls == ["detach", "attach"]
    assert all(d.kind == "file" for d in host.driver.hypervisor.get(instance.uuid).devices.values())

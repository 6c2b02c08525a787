# SPDX-License-Identifier: Apache-2.0
"""Switching off gently, starting paused, memory that is not there, and interrupted reboots."""

import time
from collections.abc import Callable

import pytest

from compute_agent import concurrency, steps
from compute_agent.model import errors
from compute_agent.model.states import InstanceState, PowerState
from compute_agent.virt.event import LifecycleEvent
from compute_agent.virt.fake.hypervisor import Size
from tests.unit.virt.fake.conftest import Host, make_instance, spawn, working


def test_a_guest_that_shuts_down_when_asked_is_not_waited_for(host: Host) -> None:
    instance = host.spawn()
    started = time.monotonic()
    host.driver.power_off(instance, timeout=60, retry_interval=10)
    assert time.monotonic() - started < 1
    (event,) = host.heard
    assert isinstance(event, LifecycleEvent)
    assert event.detail == "the guest shut down"


def test_a_deaf_guests_plug_is_pulled_after_the_timeout(host: Host) -> None:
    instance = host.spawn()
    host.driver.hypervisor.deaf.add(instance.uuid)
    started = time.monotonic()
    host.driver.power_off(instance, timeout=0.05, retry_interval=0.01)
    assert time.monotonic() - started >= 0.05
    assert host.events == ["Stopped"]
    assert host.driver.get_info(instance).state is PowerState.SHUTDOWN


def test_a_timeout_of_nothing_pulls_the_plug_at_once(host: Host) -> None:
    instance = host.spawn()
    host.driver.hypervisor.deaf.add(instance.uuid)
    host.driver.power_off(instance)
    assert host.events == ["Stopped"]


def test_a_guest_takes_the_time_that_it_takes(host: Host, configure: Callable[..., None]) -> None:
    configure(guest_shutdown_time=0.03)
    instance = host.spawn()
    started = time.monotonic()
    host.driver.power_off(instance, timeout=5, retry_interval=1)
    assert 0.03 <= time.monotonic() - started < 1


def test_waiting_for_a_guest_ends_with_a_cancellation(host: Host) -> None:
    instance = host.spawn()
    host.driver.hypervisor.deaf.add(instance.uuid)
    work = steps.Work(operation_id="op-1", verb="power_off")
    ended: list[type[Exception]] = []

    def attempt() -> None:
        with steps.working(work):
            try:
                host.driver.power_off(instance, timeout=60)
            except errors.Cancelled as error:
                ended.append(type(error))

    task = concurrency.spawn(attempt)
    concurrency.sleep(0)
    work.cancel_requested.set()
    task.wait()
    assert ended == [errors.Cancelled]
    assert host.driver.get_info(instance).state is PowerState.RUNNING


def test_a_soft_reboot_of_a_deaf_guest_becomes_hard(host: Host, configure: Callable[..., None]) -> None:
    configure(wait_soft_reboot_seconds=0)
    instance = host.spawn()
    host.driver.hypervisor.deaf.add(instance.uuid)
    host.driver.reboot(None, instance, instance.network_info, "SOFT")
    assert host.events == ["Stopped", "Started"]


def test_a_reboot_that_failed_in_the_middle_is_finished_by_the_next(host: Host) -> None:
    instance = host.spawn()
    host.driver.faults.fail("reboot.start", times=1)
    with pytest.raises(errors.HypervisorError):
        host.driver.reboot(None, instance, instance.network_info, "HARD")
    assert host.driver.get_info(instance).state is PowerState.SHUTDOWN
    host.driver.reboot(None, instance, instance.network_info, "HARD")
    assert host.events == ["Stopped", "Started"]


def test_power_on_honours_start_paused(host: Host) -> None:
    instance = host.spawn(start_paused=True)
    host.driver.power_off(instance)
    host.driver.power_on(None, instance, instance.network_info)
    assert host.events == ["Stopped", "Paused"]


def test_what_is_not_bootable_is_not_switched_on(host: Host) -> None:
    instance = host.spawn()
    host.driver.power_off(instance)
    host.driver.set_bootable(instance, False)
    with pytest.raises(errors.InvalidState):
        host.driver.power_on(None, instance, instance.network_info)
    host.driver.set_bootable(instance, True)
    host.driver.power_on(None, instance, instance.network_info)
    assert host.driver.get_info(instance).state is PowerState.RUNNING


def test_guests_are_refused_where_memory_or_processors_are_short(host: Host) -> None:
    host.driver.hypervisor.size = Size(vcpus=2, memory_mb=100, local_gb=10)
    host.spawn()
    with pytest.raises(errors.InsufficientResources):
        spawn(host.driver, make_instance())
    with pytest.raises(errors.InsufficientResources):
        spawn(host.driver, make_instance(flavor={"vcpus": 2, "memory_mb": 1}))
    with pytest.raises(errors.DiskFull):
        spawn(host.driver, make_instance(flavor={"root_gb": 10, "memory_mb": 1}))
    assert len(host.world.domains) == len(host.world.directories) == 1


def test_suspending_frees_the_memory_and_pausing_keeps_it(host: Host) -> None:
    host.driver.hypervisor.size = Size(vcpus=8, memory_mb=100, local_gb=100)
    first = host.spawn()
    host.driver.pause(first)
    with pytest.raises(errors.InsufficientResources):
        spawn(host.driver, make_instance())
    host.driver.suspend(None, first)
    second = host.spawn()
    with pytest.raises(errors.InsufficientResources):
        host.driver.resume(None, first, first.network_info)
    host.driver.destroy(None, second, second.network_info)
    host.driver.resume(None, first, first.network_info)
    assert host.driver.get_info(first).state is PowerState.RUNNING


def test_a_guest_starts_with_what_is_left_if_its_flavor_allows(host: Host) -> None:
    host.driver.hypervisor.size = Size(vcpus=8, memory_mb=100, local_gb=100)
    host.spawn()
    instance = host.spawn(flavor={"min_memory_mb": 16})
    info = host.driver.get_info(instance)
    assert (info.mem_kb, info.max_mem_kb) == (36 * 1024, 64 * 1024)


def test_processor_time_rises_while_a_guest_runs_only(host: Host) -> None:
    instance = host.spawn()
    host.driver.hypervisor.effect("age", instance.uuid, domain={"running_since": time.time() - 1})
    running = host.driver.get_info(instance).cpu_time_ns
    assert running > 0
    host.driver.pause(instance)
    paused = host.driver.get_info(instance).cpu_time_ns
    assert paused >= running
    assert host.driver.get_info(instance).cpu_time_ns == paused


def test_those_that_reboot_for_too_long_are_rebooted(host: Host) -> None:
    stuck, fresh = host.spawn(), host.spawn()
    host.virtapi.put(stuck, InstanceState.ACTIVE, updated_at="2020-01-01T00:00:00.000000Z")
    host.virtapi.put(fresh, InstanceState.ACTIVE, updated_at="2999-01-01T00:00:00.000000Z")
    host.driver.poll_rebooting_instances(10, [stuck, fresh])
    assert {event.get_instance_uuid() for event in host.heard if isinstance(event, LifecycleEvent)} == {
        stuck.uuid
    }
    assert host.events == ["Stopped", "Started"]


@pytest.mark.parametrize("member", ["pause", "unpause", "soft_delete", "restore", "power_off", "get_info"])
def test_an_unknown_instance_is_not_found(host: Host, member: str) -> None:
    with pytest.raises(errors.InstanceNotFound):
        getattr(host.driver, member)(make_instance())


def test_a_verb_ends_after_its_own_event(host: Host) -> None:
    order: list[str] = []
    host.driver.register_event_listener(lambda event: order.append("event"))
    with working("spawn"):
        spawn(host.driver, make_instance())
    order.append("returned")
    assert order == ["event", "returned"]

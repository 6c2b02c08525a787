# SPDX-License-Identifier: Apache-2.0
"""What can be made to go wrong on the fake host."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent import concurrency, steps
from compute_agent.model import errors
from compute_agent.model.states import PowerState
from compute_agent.virt.fake.faults import Faults
from tests.unit.virt.fake.conftest import Host, make_instance, spawn


@pytest.mark.parametrize(
    ("member", "call"),
    [
        ("get_info", lambda d, i: d.get_info(i)),
        ("get_all_info", lambda d, i: d.get_all_info()),
        ("pause", lambda d, i: d.pause(i)),
        ("attach_volume", lambda d, i: d.attach_volume(None, {}, instance=i, mountpoint=None)),
        ("snapshot", lambda d, i: d.snapshot(None, i, "x", print)),
        ("init_host", lambda d, i: d.init_host("node-1")),
        ("live_migration", lambda d, i: d.live_migration(None, i, "x", print, print)),
        ("get_vnc_console", lambda d, i: d.get_vnc_console(None, i)),
    ],
)
def test_any_member_can_fail(host: Host, member: str, call: Callable[[Any, Any], Any]) -> None:
    instance = host.spawn()
    host.driver.faults.fail(member, errors.PermissionDenied)
    with pytest.raises(errors.PermissionDenied):
        call(host.driver, instance)


def test_a_fault_happens_as_often_as_it_was_told(host: Host) -> None:
    instance = host.spawn()
    host.driver.faults.fail("pause", times=2)
    for _ in range(2):
        with pytest.raises(errors.HypervisorError):
            host.driver.pause(instance)
    host.driver.pause(instance)
    assert host.driver.get_info(instance).state is PowerState.PAUSED


def test_a_fault_may_concern_one_instance(host: Host) -> None:
    first, second = host.spawn(), host.spawn()
    host.driver.faults.fail("pause", instance=first.uuid)
    host.driver.pause(second)
    with pytest.raises(errors.HypervisorError):
        host.driver.pause(instance=first)


def test_what_hangs_goes_on_when_it_is_released(host: Host) -> None:
    instance = host.spawn()
    host.driver.faults.hang("pause")
    reached = host.driver.faults.reached("pause")
    task = concurrency.spawn(host.driver.pause, instance)
    assert reached.wait(5)
    assert not task.ended
    host.driver.faults.release("pause")
    task.wait()
    assert host.events == ["Paused"]


def test_what_hangs_ends_with_the_works_deadline(host: Host) -> None:
    instance = host.spawn()
    host.driver.faults.hang("power_off")
    work = steps.Work(operation_id="op-1", verb="power_off", deadline=time.monotonic() + 0.02)
    with steps.working(work), pytest.raises(errors.Timeout):
        host.driver.power_off(instance)
    assert host.driver.get_info(instance).state is PowerState.RUNNING


def test_what_is_slow_takes_its_time(host: Host) -> None:
    host.driver.faults.slow("spawn.define", 0.02)
    started = time.monotonic()
    spawn(host.driver, make_instance())
    assert time.monotonic() - started >= 0.02


def test_undoing_can_fail_as_well(host: Host) -> None:
    host.driver.faults.fail("spawn.start")
    for step in ("check", "disks"):
        host.driver.faults.fail(f"spawn.{step}.undo", times=1)
    with pytest.raises(errors.HypervisorError):
        spawn(host.driver, make_instance())
    assert len(host.world.directories) == 1
    assert not host.world.domains


def test_the_configuration_names_faults(configure: Callable[..., None]) -> None:
    configure(faults=["spawn.start=fail:DiskFull*1", "pause=slow:0.01"])
    host = Host()
    with pytest.raises(errors.DiskFull) as raised:
        spawn(host.driver, make_instance())
    assert raised.value.step == "start"
    assert host.nothing_is_left()
    host.driver.pause(host.spawn())


@pytest.mark.parametrize(
    "text",
    ["pause", "pause=", "=fail", "pause=explode", "pause=slow", "pause=fail:NoSuchError", "pause=fail*x"],
)
def test_a_text_that_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Faults([text])


@pytest.mark.parametrize(
    "text", ["power_off=hang", "power_off=hang:0.5*2", " spawn.start = fail:DiskFull * 1 "]
)
def test_texts_are_forgiving_about_spaces(text: str) -> None:
    assert Faults([text]).armed

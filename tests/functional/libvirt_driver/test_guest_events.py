# SPDX-License-Identifier: Apache-2.0
"""What guests do by themselves, and what others do at the hypervisor: told, with whose doing it was."""

import os
import signal

import pytest

from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.event import LifecycleEvent
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.bootsector import SHORT_LIVED, Ending, Guestware

PANICS = Guestware(ending=Ending.PANIC, ending_after=9)
RESETS = Guestware(ending=Ending.RESET, ending_after=9)


def _wait_for(watched: Watched, instance: Instance, transition: str) -> LifecycleEvent:
    watched.wait(lambda: transition in watched.told(instance), transition)
    return watched.last(instance)


def test_a_killed_qemu_is_a_crash(watched: Watched) -> None:
    instance = watched.spawned()
    watched.hypervisor.kill_guest(instance.uuid)
    assert _wait_for(watched, instance, "crashed").origin == "unknown"
    assert watched.told(instance) == ["crashed"]
    assert watched.state(instance) is PowerState.CRASHED
    watched.driver.power_on(None, instance, [])
    assert watched.told(instance) == ["crashed", "started"]


def test_a_guest_that_shuts_itself_down_has_stopped(watched: Watched) -> None:
    instance = watched.instance(SHORT_LIVED)
    watched.spawn(instance)
    assert _wait_for(watched, instance, "stopped").origin == "guest"
    assert watched.told(instance) == ["started", "stopped"]
    assert watched.state(instance) is PowerState.SHUTDOWN


def test_a_qemu_that_is_asked_to_end_has_stopped(watched: Watched) -> None:
    instance = watched.spawned()
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    assert _wait_for(watched, instance, "stopped").origin == "host"
    assert watched.told(instance) == ["stopped"]


def test_a_guest_that_panics_is_a_crash_told_once(watched: Watched) -> None:
    instance = watched.instance(PANICS)
    watched.spawn(instance)
    assert _wait_for(watched, instance, "crashed").origin == "guest"
    watched.wait(lambda: watched.hypervisor.qemu_pid(instance.uuid) is None, "its QEMU's end")
    watched.driver.get_info(instance)
    # QEMU stops the guest when it panics: libvirt may tell of that first.
    assert [name for name in watched.told(instance) if name != "paused"] == ["started", "crashed"]


def test_a_guest_that_resets_itself_runs_on(watched: Watched) -> None:
    instance = watched.instance(RESETS)
    watched.spawn(instance)
    watched.wait(
        lambda: watched.driver.get_console_output(None, instance).count(b"Hello") > 2, "three greetings"
    )
    assert watched.told(instance) == ["started"]


@pytest.mark.parametrize(
    ("call", "transition"),
    [("suspend", "paused"), ("destroy", "stopped"), ("managedSave", "suspended")],
)
def test_what_a_person_does_with_virsh_is_told_as_the_hosts_doing(
    watched: Watched, call: str, transition: str
) -> None:
    instance = watched.spawned()
    connection = watched.hypervisor.connect()
    getattr(connection.lookupByUUIDString(instance.uuid), call)()
    connection.close()
    assert _wait_for(watched, instance, transition).origin == "host"


def test_domains_of_others_are_told_too(watched: Watched) -> None:
    instance = watched.spawned()
    watched.driver.power_off(instance)
    watched.heard.clear()
    connection = watched.hypervisor.connect()
    found = connection.lookupByUUIDString(instance.uuid)
    found.create()
    _wait_for(watched, instance, "started")
    found.managedSave()
    _wait_for(watched, instance, "suspended")
    found.create()
    _wait_for(watched, instance, "resumed")
    connection.close()
    assert watched.told(instance) == ["started", "paused", "suspended", "resumed"]


def test_no_event_that_libvirt_told_is_lost_when_the_driver_is_stopped(watched: Watched) -> None:
    instances = [watched.spawned() for _ in range(3)]
    connection = watched.hypervisor.connect()
    for instance in instances:
        connection.lookupByUUIDString(instance.uuid).suspend()
    connection.close()
    watched.driver.cleanup_host("test-host")
    assert [watched.told(instance) for instance in instances] == [["paused"]] * 3
    assert len(watched.hypervisor.qemu_pids()) >= 3

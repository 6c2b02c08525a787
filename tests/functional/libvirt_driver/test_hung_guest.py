# SPDX-License-Identifier: Apache-2.0
"""A QEMU that hangs costs one native thread: everybody else is served."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from tests.functional.libvirt_driver.conftest import Watched


@pytest.fixture
def two_threads(settings: None) -> Iterator[None]:
    """As few threads for guests as there may be."""
    CONF.set_override("guest_threads", 2, "libvirt")
    yield
    CONF.clear_override("guest_threads", "libvirt")


@pytest.fixture
def hung(two_threads: None, watched: Watched) -> Iterator[list[Instance]]:
    """Six guests whose QEMU is stopped: more than libvirtd serves over one connection."""
    instances = [watched.spawned() for _ in range(6)]
    pids = [watched.hypervisor.qemu_pid(instance.uuid) or 0 for instance in instances]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield instances
    for pid in pids:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGCONT)
    watched.wait(lambda: watched.driver._host.given_up == 0, "the return of the calls")


def _pause(watched: Watched, instance: Instance) -> str:
    try:
        with watched.operation("pause", timeout=1.0):
            watched.driver.pause(instance)
    except errors.ComputeError as error:
        return error.code
    return "succeeded"


def test_hung_guests_time_out_and_others_are_served(watched: Watched, hung: list[Instance]) -> None:
    well = watched.spawned()
    watched.heard.clear()
    waiting = [concurrency.spawn(_pause, watched, instance) for instance in hung]
    assert [task.wait() for task in waiting] == ["Timeout"] * len(hung)
    assert watched.driver._host.given_up == len(hung)
    started = time.monotonic()
    watched.driver.pause(well)
    watched.driver.unpause(well)
    assert watched.told(well) == ["paused", "resumed"]
    assert time.monotonic() - started < 2


def test_questions_about_all_guests_are_answered(watched: Watched, hung: list[Instance]) -> None:
    started = time.monotonic()
    for instance in hung:
        assert watched.state(instance) is PowerState.RUNNING
    assert {instance.uuid for instance in hung} <= set(watched.driver.get_all_info())
    assert watched.driver.get_available_resource("")["running_vms"] >= len(hung)
    assert len(watched.driver.get_per_instance_usage()) >= len(hung)
    assert time.monotonic() - started < 2


def test_a_hung_guest_can_be_destroyed(watched: Watched, hung: list[Instance]) -> None:
    instance = hung[0]
    _pause(watched, instance)
    watched.heard.clear()
    watched.driver.destroy(None, instance, [])
    assert watched.told(instance) == ["stopped"]
    assert watched.left_of(instance) == []

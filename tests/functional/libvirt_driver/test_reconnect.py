# SPDX-License-Identifier: Apache-2.0
"""libvirtd goes away and comes back: guests run on, verbs wait, questions do not wait long."""

import time
from collections.abc import Iterator

import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt import connection, host, keeper
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.hypervisor import Hypervisor


def _gone(watched: Watched) -> None:
    watched.wait(lambda: not watched.driver._host.connected, "the loss of libvirt")


def _back(watched: Watched) -> None:
    watched.wait(lambda: watched.driver._host.connected, "libvirt's return")


@pytest.mark.parametrize("kill", [True, False])
def test_guests_run_on_and_events_come_again(watched: Watched, kill: bool) -> None:
    instance = watched.spawned()
    pid = watched.hypervisor.qemu_pid(instance.uuid)
    if kill:
        watched.hypervisor.kill()
    else:
        watched.hypervisor.stop()
    _gone(watched)
    watched.hypervisor.start()
    _back(watched)
    assert watched.comings_and_goings() == [False, True]
    assert watched.hypervisor.qemu_pid(instance.uuid) == pid
    assert watched.state(instance) is PowerState.RUNNING
    watched.driver.pause(instance)
    watched.driver.unpause(instance)
    watched.driver.destroy(None, instance, [])
    assert watched.told(instance) == ["paused", "resumed", "stopped"]
    assert watched.left_of(instance) == []


def test_it_comes_and_goes_more_than_once(watched: Watched) -> None:
    for _ in range(2):
        watched.hypervisor.kill()
        _gone(watched)
        watched.hypervisor.start()
        _back(watched)
    assert watched.comings_and_goings() == [False, True, False, True]


def test_a_verb_waits_for_libvirt_and_then_goes_on(watched: Watched) -> None:
    instance = watched.spawned()
    watched.hypervisor.kill()
    _gone(watched)
    with watched.operation("pause") as work:
        paused = concurrency.spawn(watched.driver.pause, instance)
        watched.wait(lambda: work.waiting_for == "hypervisor", "the verb's waiting")
        watched.hypervisor.start()
        paused.wait()
    assert work.waiting_for is None
    assert watched.told(instance) == ["paused"]


def test_a_spawn_waits_for_libvirt_and_then_goes_on(watched: Watched) -> None:
    watched.hypervisor.kill()
    _gone(watched)
    instance = watched.instance()
    with watched.operation() as work:
        spawned = concurrency.spawn(watched.spawn, instance)
        watched.wait(lambda: work.waiting_for == "hypervisor", "the spawn's waiting")
        watched.hypervisor.start()
        spawned.wait()
    assert watched.told(instance) == ["started"]


def test_a_verb_whose_deadline_passes_meanwhile_says_why(watched: Watched) -> None:
    instance = watched.spawned()
    watched.hypervisor.kill()
    _gone(watched)
    started = time.monotonic()
    with watched.operation("pause", timeout=1.0), pytest.raises(errors.HypervisorUnavailable):
        watched.driver.pause(instance)
    assert 0.9 < time.monotonic() - started < 3


def test_a_verb_that_waits_can_be_cancelled(watched: Watched) -> None:
    instance = watched.spawned()
    watched.hypervisor.kill()
    _gone(watched)
    with watched.operation("pause") as work:
        concurrency.spawn(lambda: (concurrency.sleep(0.2), work.cancel_requested.set()))
        with pytest.raises(errors.Cancelled):
            watched.driver.pause(instance)


def test_a_question_waits_for_a_moment_only(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "QUESTION_S", 0.5)
    instance = watched.spawned()
    watched.hypervisor.kill()
    _gone(watched)
    started = time.monotonic()
    with pytest.raises(errors.HypervisorUnavailable):
        watched.driver.get_all_info()
    with pytest.raises(errors.HypervisorUnavailable):
        watched.driver.instance_exists(instance)
    assert time.monotonic() - started < 3
    assert b"" in watched.driver.get_console_output(None, instance)
    assert watched.driver.verify() is not None


def test_a_guest_that_ended_meanwhile_is_seen_as_it_is(watched: Watched) -> None:
    instance = watched.spawned()
    watched.hypervisor.kill()
    _gone(watched)
    watched.hypervisor.kill_guest(instance.uuid)
    watched.hypervisor.start()
    _back(watched)
    watched.wait(lambda: watched.state(instance) is not PowerState.RUNNING, "the news of its end")
    watched.driver.power_on(None, instance, [])
    assert watched.told(instance)[-1] == "started"


@pytest.mark.parametrize("after", [0.05, 0.12, 0.2, 0.3])
def test_spawns_under_way_when_libvirtd_is_killed_are_finished(watched: Watched, after: float) -> None:
    instances = [watched.instance() for _ in range(4)]
    ended = []
    for instance in instances:
        with watched.operation():
            ended.append(concurrency.spawn(watched.spawn, instance))
    concurrency.sleep(after)
    watched.outside(watched.hypervisor.restart, kill=True)
    for task in ended:
        task.wait()
    assert [watched.told(instance) for instance in instances] == [["started"]] * 4
    assert {watched.state(instance) for instance in instances} == {PowerState.RUNNING}
    assert set(watched.hypervisor.qemu_pids()) >= {instance.uuid for instance in instances}


def test_a_libvirtd_that_hangs_is_noticed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_INTERVAL_S", 1)
    monkeypatch.setattr(connection, "KEEPALIVE_COUNT", 1)
    watched.hypervisor.restart()
    watched.wait(lambda: watched.comings_and_goings() == [False, True], "the connection with short intervals")
    instance = watched.spawned()
    watched.hypervisor.suspend()
    with watched.operation("pause", timeout=90.0) as work:
        paused = concurrency.spawn(watched.driver.pause, instance)
        # Long before its deadline and before the patience with a single call, both of a minute or more.
        watched.wait(lambda: work.waiting_for == "hypervisor", "the notice", timeout=30)
    assert watched.comings_and_goings()[-1] is False
    watched.hypervisor.resume()
    paused.wait()
    watched.wait(lambda: watched.comings_and_goings()[-1], "libvirt's return")
    assert watched.told(instance) == ["paused"]
    watched.wait(lambda: watched.driver._host.given_up == 0, "the return of calls that were given up")


@pytest.fixture
def stopped(fresh_hypervisor: Hypervisor, settings: None) -> Iterator[Watched]:
    """A driver whose libvirtd does not run yet."""
    fresh_hypervisor.stop()
    made = Watched(fresh_hypervisor)
    yield made
    fresh_hypervisor.ensure()
    made.driver.cleanup_host("test-host")


def test_a_start_without_libvirt_is_a_degraded_one(stopped: Watched) -> None:
    stopped.driver.init_host("test-host")
    assert stopped.comings_and_goings() == [False]
    instance = stopped.instance()
    with stopped.operation() as work:
        spawned = concurrency.spawn(stopped.spawn, instance)
        stopped.wait(lambda: work.waiting_for == "hypervisor", "the spawn's waiting")
        stopped.outside(stopped.hypervisor.start)
        spawned.wait()
    assert stopped.comings_and_goings() == [False, True]
    assert stopped.told(instance) == ["started"]


def test_attempts_are_spread(settings: None) -> None:
    CONF.set_override("reconnect_interval", 1.0, "libvirt")
    waits = [keeper.back_off(attempt) for attempt in range(40)]
    assert 0.8 <= waits[0] <= 1.2
    assert max(waits) <= keeper.LONGEST_BACK_OFF_S * 1.2
    assert len(set(waits)) == len(waits)

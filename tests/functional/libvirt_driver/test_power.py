# SPDX-License-Identifier: Apache-2.0
"""Every power verb on a real guest: the events that it tells, and that repeating it is harmless."""

from collections.abc import Callable

import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt.driver import LibvirtDriver
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.bootsector import IDLE, TICKER

Verb = Callable[[LibvirtDriver, Instance], object]

VERBS: dict[str, Verb] = {
    "pause": lambda driver, instance: driver.pause(instance),
    "unpause": lambda driver, instance: driver.unpause(instance),
    "suspend": lambda driver, instance: driver.suspend(None, instance),
    "resume": lambda driver, instance: driver.resume(None, instance, []),
    "power_off": lambda driver, instance: driver.power_off(instance),
    "power_on": lambda driver, instance: driver.power_on(None, instance, []),
    "reboot": lambda driver, instance: driver.reboot(None, instance, [], "HARD"),
    "soft_delete": lambda driver, instance: driver.soft_delete(instance),
    "restore": lambda driver, instance: driver.restore(instance),
    "boot_of_host": lambda driver, instance: driver.resume_state_on_host_boot(None, instance, []),
    "destroy": lambda driver, instance: driver.destroy(None, instance, []),
}
RUNNING, PAUSED, OFF = PowerState.RUNNING, PowerState.PAUSED, PowerState.SHUTDOWN
SUSPENDED = PowerState.SUSPENDED

WALK: list[tuple[str, list[str], PowerState]] = [
    ("unpause", [], RUNNING),
    ("resume", [], RUNNING),
    ("power_on", [], RUNNING),
    ("boot_of_host", [], RUNNING),
    ("pause", ["paused"], PAUSED),
    ("pause", [], PAUSED),
    ("power_on", [], PAUSED),
    ("boot_of_host", [], PAUSED),
    ("unpause", ["resumed"], RUNNING),
    ("suspend", ["suspended"], SUSPENDED),
    ("suspend", [], SUSPENDED),
    ("resume", ["resumed"], RUNNING),
    ("pause", ["paused"], PAUSED),
    ("suspend", ["suspended"], SUSPENDED),
    ("boot_of_host", ["resumed"], RUNNING),
    ("reboot", ["stopped", "started"], RUNNING),
    ("pause", ["paused"], PAUSED),
    ("reboot", ["stopped", "started"], RUNNING),
    ("power_off", ["stopped"], OFF),
    ("power_off", [], OFF),
    ("reboot", ["started"], RUNNING),
    ("soft_delete", ["stopped"], OFF),
    ("restore", ["started"], RUNNING),
    ("suspend", ["suspended"], SUSPENDED),
    ("power_off", [], OFF),
    ("boot_of_host", ["started"], RUNNING),
    ("suspend", ["suspended"], SUSPENDED),
    ("reboot", ["started"], RUNNING),
    ("pause", ["paused"], PAUSED),
    ("power_off", ["stopped"], OFF),
    ("power_on", ["started"], RUNNING),
]


def test_each_verb_tells_its_own_events_before_it_returns(watched: Watched) -> None:
    instance = watched.spawned()
    for number, (verb, events, state) in enumerate(WALK):
        watched.heard.clear()
        VERBS[verb](watched.driver, instance)
        assert (verb, watched.told(instance)) == (verb, events), f"step {number}"
        assert watched.state(instance) is state, f"step {number}, {verb}"
    assert watched.driver._host.given_up == 0


@pytest.mark.parametrize(
    ("before", "events"),
    [([], ["stopped"]), (["pause"], ["stopped"]), (["suspend"], []), (["power_off"], [])],
)
def test_destroy_tells_of_a_stop_only_if_something_was_up(
    watched: Watched, before: list[str], events: list[str]
) -> None:
    instance = watched.spawned()
    for verb in before:
        VERBS[verb](watched.driver, instance)
    watched.heard.clear()
    watched.driver.destroy(None, instance, [])
    watched.driver.destroy(None, instance, [])
    assert watched.told(instance) == events
    assert watched.left_of(instance) == []


@pytest.mark.parametrize("verb", ["pause", "unpause", "suspend", "resume"])
def test_a_guest_that_is_off_refuses(watched: Watched, verb: str) -> None:
    instance = watched.spawned()
    watched.driver.power_off(instance)
    watched.heard.clear()
    with pytest.raises(errors.InvalidState):
        VERBS[verb](watched.driver, instance)
    assert watched.told(instance) == []
    assert watched.state(instance) is OFF


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("destroy",)])
def test_a_verb_on_an_unknown_instance_says_so(watched: Watched, verb: str) -> None:
    with pytest.raises(errors.InstanceNotFound):
        VERBS[verb](watched.driver, watched.instance())


def test_a_suspended_guest_is_not_booted_over_its_memory(watched: Watched) -> None:
    instance = watched.spawned()
    watched.driver.suspend(None, instance)
    with pytest.raises(errors.InvalidState):
        watched.driver.power_on(None, instance, [])
    assert watched.state(instance) is SUSPENDED


def test_a_polite_guest_is_switched_off_by_its_own_hand(watched: Watched) -> None:
    instance = watched.spawned()
    watched.wait(lambda: watched.driver.get_console_output(None, instance), "the greeting")
    watched.driver.power_off(instance, timeout=20, retry_interval=1)
    assert watched.told(instance) == ["stopped"]
    assert watched.last(instance).detail == "shut down"


def test_a_deaf_guest_has_its_plug_pulled_after_the_timeout(watched: Watched) -> None:
    instance = watched.spawned(IDLE)
    watched.driver.power_off(instance, timeout=1, retry_interval=0.5)
    assert watched.told(instance) == ["stopped"]
    assert watched.last(instance).detail == "destroyed"


def test_a_soft_reboot_lets_the_guest_end_itself(watched: Watched) -> None:
    instance = watched.spawned()
    watched.wait(lambda: watched.driver.get_console_output(None, instance), "the greeting")
    watched.driver.reboot(None, instance, [], "SOFT")
    assert watched.told(instance) == ["stopped", "started"]
    assert [getattr(event, "detail", None) for event in watched.heard] == ["shut down", "booted"]


def test_a_guest_that_is_resumed_goes_on_where_it_was(watched: Watched) -> None:
    instance = watched.spawned(TICKER)
    watched.wait(lambda: b"tick 2" in watched.driver.get_console_output(None, instance), "two ticks")
    watched.driver.suspend(None, instance)
    assert watched.hypervisor.qemu_pid(instance.uuid) is None
    before = watched.driver.get_console_output(None, instance).count(b"tick ")
    watched.driver.resume(None, instance, [])
    after = f"tick {before + 1}".encode()
    watched.wait(lambda: after in watched.driver.get_console_output(None, instance), "the next tick")
    assert watched.driver.get_console_output(None, instance).count(b"Hello") == 1


def test_an_instance_that_is_not_bootable_stays_off(watched: Watched) -> None:
    instance = watched.spawned()
    watched.driver.power_off(instance)
    watched.driver.set_bootable(instance, False)
    with pytest.raises(errors.InvalidState):
        watched.driver.power_on(None, instance, [])
    watched.driver.set_bootable(instance, True)
    watched.driver.power_on(None, instance, [])
    assert watched.state(instance) is RUNNING


@pytest.mark.parametrize("interrupted_after", [0, 1, 2, 3])
def test_an_interrupted_reboot_boots_the_guest_once(watched: Watched, interrupted_after: int) -> None:
    instance = watched.spawned()
    with watched.operation("reboot") as work:
        for step in watched.driver.reboot_steps(None, instance, [], "HARD")[:interrupted_after]:
            step.do()
    with watched.operation("reboot", operation_id=work.operation_id, attempts=2):
        watched.driver.reboot(None, instance, [], "HARD")
    assert watched.told(instance) == ["stopped", "started"]
    assert watched.state(instance) is RUNNING

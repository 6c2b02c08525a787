# SPDX-License-Identifier: Apache-2.0
"""Guests of the fake hypervisor that outlive the agent, and what happens to them meanwhile."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compute_agent import concurrency
from compute_agent.model import errors
from compute_agent.model.states import PowerState
from compute_agent.virt.event import LifecycleEvent
from tests.unit.virt.fake.conftest import (
    PLAIN_IMAGE,
    Host,
    connection,
    make_instance,
    spawn,
    spawn_arguments,
    vif,
    working,
)


def append(host: Host, **line: Any) -> None:
    assert host.driver.ledger is not None
    with Path(host.driver.ledger.path).open("a") as file:
        file.write(json.dumps(line) + "\n")


def state_of(host: Host) -> dict[str, Any]:
    world = host.world
    names = ("domains", "uuids", "directories", "plugged", "filters", "volumes", "host")
    return {name: getattr(world, name) for name in (*names, "memory_kb", "vcpus", "disk_bytes")}


def test_another_process_finds_the_world_as_it_was(kept: Host) -> None:
    first, second, third = kept.spawn(), kept.spawn(flavor={"swap_mb": 5}), kept.spawn()
    kept.driver.attach_volume(None, connection("extra"), first, None)
    kept.driver.attach_interface(None, first, None, vif(50_000))
    kept.driver.rescue(None, second, [], PLAIN_IMAGE, "secret")
    kept.driver.suspend(None, first)
    kept.driver.set_host_enabled(False)
    kept.driver.destroy(None, third, [])
    kept.driver.migrate_disk_and_power_off(None, second, kept.name, second.flavor, [])
    before = state_of(kept)
    kept.begin()
    assert state_of(kept) == before
    assert kept.events == []
    with pytest.raises(errors.HostDisabled):
        spawn(kept.driver, make_instance())
    kept.driver.resume(None, first, [])
    assert kept.events == ["Resumed"]


def test_nothing_secret_is_in_the_ledger(kept: Host) -> None:
    instance = make_instance(user_data="aHVzaA==")
    info_arguments = list(spawn_arguments(instance))
    info_arguments[4] = "hunter2"
    kept.driver.spawn(*info_arguments)
    kept.driver.set_admin_password(instance, "hunter3")
    assert kept.driver.ledger is not None
    text = Path(kept.driver.ledger.path).read_text()
    assert instance.uuid in text
    for secret in ("aHVzaA==", "hunter2", "hunter3"):
        assert secret not in text


@pytest.mark.parametrize("step", ["image", "disks", "network", "volumes", "define", "start"])
def test_a_spawn_is_finished_by_another_process(kept: Host, step: str) -> None:
    instance = make_instance()
    with working("spawn"):
        for part in kept.driver.spawn_steps(*spawn_arguments(instance)):
            if part.name == step:
                break
            part.do()
    kept.begin()
    with working("spawn", attempts=2):
        spawn(kept.driver, instance)
    assert kept.events == ["Started"]
    kept.driver.destroy(None, instance, [])
    assert kept.nothing_is_left()


@pytest.mark.parametrize("step", ["disks", "network", "volumes", "define", "start"])
def test_a_spawn_is_undone_by_another_process(kept: Host, step: str) -> None:
    instance = make_instance()
    with working("spawn"):
        for part in kept.driver.spawn_steps(*spawn_arguments(instance)):
            part.do()
            if part.name == step:
                break
    kept.begin()
    with working("spawn", attempts=9, undo_only=True), pytest.raises(errors.Interrupted):
        spawn(kept.driver, instance)
    assert kept.nothing_is_left()


@pytest.mark.parametrize(
    ("line", "events", "state", "origin"),
    [
        ({"power": "shutdown"}, ["Stopped"], PowerState.SHUTDOWN, "guest"),
        ({"power": "shutdown", "origin": "host"}, ["Stopped"], PowerState.SHUTDOWN, "host"),
        ({"power": "crashed"}, ["Crashed"], PowerState.CRASHED, "unknown"),
        ({"power": "paused"}, ["Paused"], PowerState.PAUSED, "host"),
        ({"power": "suspended"}, ["Suspended"], PowerState.SUSPENDED, "host"),
        ({"power": "running"}, [], PowerState.RUNNING, None),
        ({"console": "hello"}, [], PowerState.RUNNING, None),
    ],
)
def test_a_line_from_outside_happens_to_the_guest(
    kept: Host, line: dict[str, Any], events: list[str], state: PowerState, origin: str | None
) -> None:
    instance = kept.spawn()
    append(kept, guest=instance.uuid, **line)
    assert kept.driver.poll_outside() == 1
    assert [e.origin for e in kept.heard if isinstance(e, LifecycleEvent)] == ([origin] if origin else [])
    assert kept.events == events
    assert kept.driver.get_info(instance).state is state
    assert kept.driver.poll_outside() == 0
    before = state_of(kept)
    kept.begin()
    assert state_of(kept) == before


def test_what_happened_while_the_agent_was_away_is_there_and_was_not_told(kept: Host) -> None:
    instance = kept.spawn()
    kept.driver.cleanup_host(kept.name)
    append(kept, guest=instance.uuid, power="shutdown")
    kept.begin()
    assert kept.driver.get_info(instance).state is PowerState.SHUTDOWN
    assert kept.events == []


def test_a_guest_can_be_removed_from_outside(kept: Host) -> None:
    instance = kept.spawn()
    append(kept, guest=instance.uuid, power="gone")
    kept.driver.poll_outside()
    assert kept.events == ["Stopped"]
    assert not kept.driver.instance_exists(instance)
    assert kept.driver.instance_on_disk(instance)


def test_the_hypervisor_can_be_sent_away_from_outside(kept: Host) -> None:
    append(kept, hypervisor="away", reason="maintenance")
    kept.driver.poll_outside()
    with pytest.raises(errors.HypervisorUnavailable, match="maintenance"):
        kept.driver.get_all_info()
    append(kept, hypervisor="back")
    kept.driver.poll_outside()
    assert kept.driver.get_all_info() == {}
    assert kept.events == ["Disconnected", "Connected"]


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "[]",
        "{",
        '{"guest": "nobody", "power": "shutdown"}',
        '{"guest": "x", "power": "exploded"}',
        '{"set": {"nothing": 1}}',
        '{"guest": "x", "set": {"domain": {"nothing": 1}}}',
        '{"guest": "x", "set": {"domain": {"power": "often"}}}',
        '{"set": 3}',
        "",
        '{"guest": 7, "power": []}',
    ],
)
def test_a_line_that_makes_no_sense_is_left_out(kept: Host, text: str) -> None:
    instance = kept.spawn()
    assert kept.driver.ledger is not None
    with Path(kept.driver.ledger.path).open("a") as file:
        file.write(text + "\n")
    kept.driver.poll_outside()
    kept.begin()
    assert list(kept.driver.get_all_info()) == [instance.uuid]


def test_half_a_line_waits_for_its_end(kept: Host) -> None:
    instance = kept.spawn()
    assert kept.driver.ledger is not None
    line = json.dumps({"guest": instance.uuid, "power": "shutdown"})
    with Path(kept.driver.ledger.path).open("a") as file:
        file.write(line[:10])
        file.flush()
        assert kept.driver.poll_outside() == 0
        file.write(line[10:] + "\n")
    assert kept.driver.poll_outside() == 1
    assert kept.events == ["Stopped"]


def test_lines_from_outside_are_seen_without_being_asked_for(
    configure: Callable[..., None], tmp_path: Path
) -> None:
    configure(ledger=str(tmp_path / "ledger"), poll_interval=0.005)
    host = Host()
    instance = host.spawn()
    told = concurrency.Event()
    host.driver.register_event_listener(lambda event: told.set())
    append(host, guest=instance.uuid, power="shutdown")
    assert told.wait(5)
    host.driver.cleanup_host(host.name)


def test_a_ledger_that_can_not_be_written_is_a_full_disk(kept: Host) -> None:
    kept.driver.hypervisor.close()
    with pytest.raises(errors.DiskFull):
        spawn(kept.driver, make_instance())
    assert kept.nothing_is_left()

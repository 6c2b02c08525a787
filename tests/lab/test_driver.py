# SPDX-License-Identifier: Apache-2.0
"""The libvirt driver's side of live migration, between two real hosts; no agent has a say."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from compute_agent.virt.event import EVENT_LIFECYCLE_STARTED
from tests.lab.conftest import Pair
from tests.lab.drivers import Driver, DriverError, prepare
from tests.rig.labguest import MEMORY_MB, LabGuest
from tests.rig.linuxguest import Program
from tests.rig.process import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

_TCP = {"libvirt": {"live_migration_scheme": "tcp", "live_migration_trust_shared_storage": True}}
#: Changes its memory faster than a slow wire takes it, so that its migration never ends by itself.
_BUSY = Program(dirty_mib=32)
_SLOW_MBIT = 24.0


def _ready(
    pair: Callable[..., Pair], shared: bool, program: Program | None = None
) -> tuple[LabGuest, Driver, Driver]:
    """A guest that runs on the first host, and the drivers of both; the agents are off."""
    both = pair(shared=shared, sections=_TCP)
    guest = both.spawn(0, program=program)
    for agent in both.agents:
        agent.stop()
    one, other = (Driver(host, agent, guest) for host, agent in zip(both.hosts, both.agents, strict=True))
    return guest, one, other


@pytest.mark.parametrize("shared", [True, False], ids=["shared storage", "own storage"])
def test_a_guest_arrives_held_and_runs_when_it_is_taken(pair: Callable[..., Pair], shared: bool) -> None:
    guest, one, other = _ready(pair, shared)
    data = prepare(one, other)
    assert data["block_migration"] is not shared and data["is_shared_instance_path"] is shared
    moved = one.call("move", data=data, dest=other.agent.host)
    assert moved["called"] == ["post"]
    assert moved["status"]["status"] in ("running", "completed")  # libvirt's own answer may be to come
    assert one.fact(incoming=False) == "moved" and other.fact(incoming=True) == "held"
    assert guest.running_on() == []
    assert other.call("take") == [EVENT_LIFECYCLE_STARTED]
    assert guest.running_on() == [other.host]
    guest.ticks()  # those on the source's console, which may go now
    one.call("finish", data=data)
    guest.wait_ticks(5)
    assert not guest.troubles()
    assert guest.on(one.host).state == "absent"
    assert guest.disk_file(one.host).exists() is shared
    newest = guest.last_tick().records
    guest.destroy()
    assert guest.on(other.host).state == "shutoff"  # it is permanent there
    judged = guest.judge_disk(other.host)
    assert judged.lost == () and judged.newest >= newest


def _mid_transfer(one: Driver) -> bool:
    """Whether memory is on its way."""
    told = one.host.virsh("domjobinfo", "--rawstats", one.guest.uuid)
    stats = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
    return int(stats.get("memory_processed", 0)) > 4 * 2**20


def _abort(one: Driver, other: Driver) -> None:
    one.call("abort")


def _kill_source_libvirtd(one: Driver, other: Driver) -> None:
    one.host.hypervisor.restart(kill=True)


def _kill_destination_libvirtd(one: Driver, other: Driver) -> None:
    other.host.hypervisor.restart(kill=True)


def _kill_destination_qemu(one: Driver, other: Driver) -> None:
    other.host.hypervisor.kill_guest(other.guest.uuid)


def _cut_the_wire(one: Driver, other: Driver) -> None:
    other.host.cut()


@pytest.mark.parametrize(
    ("fault", "shared"),
    [
        (_abort, False),
        (_kill_source_libvirtd, True),
        (_kill_destination_libvirtd, False),
        (_kill_destination_qemu, True),
        (_cut_the_wire, True),
    ],
    ids=["abort", "source libvirtd", "destination libvirtd", "destination QEMU", "wire"],
)
def test_a_transfer_that_breaks_off_leaves_the_guest_here_and_nothing_there(
    pair: Callable[..., Pair], fault: Callable[[Driver, Driver], None], shared: bool
) -> None:
    guest, one, other = _ready(pair, shared, _BUSY)
    data = prepare(one, other)
    one.host.shape(_SLOW_MBIT)
    moving = one.begin("move", data=data, dest=other.agent.host)
    wait_until(lambda: _mid_transfer(one), 90, "memory on its way", moving.log_text)
    fault(one, other)
    with pytest.raises(DriverError) as failed:
        one.end(moving, 240)
    assert failed.value.name == "MigrationFailed"
    other.host.mend()
    assert one.fact(incoming=False) == "runs"
    wait_until(lambda: other.fact(incoming=True) == "absent", 120, "nothing at the destination")
    other.call("roll_back", data=data)
    other.call("roll_back", data=data)  # harmless to repeat
    guest.wait_ticks(5)
    assert guest.running_on() == [one.host] and guest.with_qemu() == [one.host]
    assert guest.on(other.host).state == "absent"
    assert guest.disk_file(other.host).exists() is shared
    assert not guest.troubles()


def test_a_transfer_outlives_the_agent_that_began_it_and_the_next_one_goes_on_with_it(
    pair: Callable[..., Pair],
) -> None:
    guest, one, other = _ready(pair, shared=True)
    data = prepare(one, other)
    one.host.shape(_SLOW_MBIT)
    first = one.begin("move", data=data, dest=other.agent.host)
    wait_until(lambda: _mid_transfer(one), 90, "memory on its way", first.log_text)
    first.kill()
    assert one.fact(incoming=False) == "busy"
    one.host.unshape()
    assert one.call("move", data=data, dest=other.agent.host)["called"] == ["post"]
    assert one.call("move", data=data, dest=other.agent.host)["called"] == ["post"]  # it is there already
    assert other.call("take") == [EVENT_LIFECYCLE_STARTED]
    one.call("finish", data=data)
    guest.wait_ticks(5)
    assert guest.running_on() == [other.host] and not guest.troubles()


def test_what_can_not_work_is_refused_before_anything_is_changed(pair: Callable[..., Pair]) -> None:
    guest, one, other = _ready(pair, shared=True)
    with pytest.raises(DriverError, match="MigrationRefused: the hosts share the instances' storage"):
        prepare(one, other, block_migration=True)
    guest.instance["network_info"][0]["bridge"] = "nosuchbridge"
    with pytest.raises(DriverError, match="MigrationRefused: no such bridge"):
        prepare(one, other)
    guest.instance["network_info"][0]["bridge"] = "br-guests"
    guest.instance["flavor"]["memory_mb"] = 2**24
    with pytest.raises(DriverError, match="MigrationRefused: the guest has"):
        prepare(one, other)
    guest.instance["flavor"]["memory_mb"] = MEMORY_MB
    foreign = guest.lab.shared / "foreign.xml"
    foreign.write_text(one.host.virsh("dumpxml", guest.uuid, "--inactive").replace(guest.uuid, _FOREIGN))
    other.host.virsh("define", str(foreign))
    with pytest.raises(DriverError, match="MigrationRefused: the hypervisor has a domain of that name"):
        prepare(one, other)
    assert not [path for path in guest.instances_path.iterdir() if "mark" in path.name]
    other.host.virsh("undefine", _FOREIGN)
    guest.on(one.host).kill()
    guest.on(one.host).wait_state("shutoff")
    with pytest.raises(DriverError, match="MigrationRefused: the instance is off"):
        prepare(one, other)


def test_files_of_an_earlier_stay_keep_a_guest_away_and_are_left_alone(pair: Callable[..., Pair]) -> None:
    guest, one, other = _ready(pair, shared=False)
    there = other.host.outside(guest.directory)
    there.mkdir()
    (there / "owner").write_text(
        json.dumps({"host": other.agent.host, "generation": 0, "operation_id": "earlier"})
    )
    (there / "disk").write_text("precious")
    with pytest.raises(DriverError, match="MigrationRefused: files of the instance are here already"):
        prepare(one, other)
    assert (there / "disk").read_text() == "precious"
    assert guest.running_on() == [one.host] and not guest.troubles()


_FOREIGN = "11111111-2222-4333-8444-555555555555"

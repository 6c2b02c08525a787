# SPDX-License-Identifier: Apache-2.0
"""The lab itself: two hosts that are apart and meet, faults, and a guest that goes between them."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable

import pytest

from tests.lab.conftest import Pair
from tests.rig import instance, linuxguest
from tests.rig.bootsector import TICKER
from tests.rig.echo import Pinger, answers
from tests.rig.guest import Guest
from tests.rig.lab import Lab
from tests.rig.labguest import LabGuest
from tests.rig.labhost import Host
from tests.rig.measure import Watch
from tests.rig.process import RigError, wait_until

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_ASK = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from tests.rig.sender import Sender
with Sender(sys.argv[2], sys.argv[3]) as sender:
    print(json.dumps(sender.call("ping")))
"""


def _ask_from(host: Host, lab: Lab, agent: str) -> str:
    """Who answers a ping that is sent from a host."""
    told = host.tell(sys.executable, "-c", _ASK, str(_ROOT), lab.transport_url, agent)
    answer: dict[str, dict[str, str]] = json.loads(told)
    return answer["as_of"]["host"]


def test_two_agents_hear_everyone_and_a_guest_is_on_the_host_that_was_asked(
    lab: Lab, pair: Callable[..., Pair]
) -> None:
    both = pair(shared=True)
    one, other = (agent.host for agent in both.agents)
    for sender, name in zip(both.senders, (one, other), strict=True):
        assert sender.call("ping")["as_of"]["host"] == name
    assert _ask_from(lab.hosts[0], lab, other) == other
    assert _ask_from(lab.hosts[1], lab, one) == one
    description = instance.describe(lab.images.qcow2("ticker", TICKER))
    both.receiver.succeeded(both.senders[0].cast("spawn", instance=description))
    first, second = (Guest(host.hypervisor, description["uuid"]) for host in lab.hosts)
    first.wait_console("tick 1")
    assert first.running and first.qemu_pid is not None
    assert second.state == "absent" and second.qemu_pid is None
    assert [len(sender.call("list_instances")["instances"]) for sender in both.senders] == [1, 0]


def test_hosts_have_names_addresses_and_directories_of_their_own(lab: Lab) -> None:
    one, other = lab.hosts
    assert [host.tell("hostname").strip() for host in lab.hosts] == [one.name, other.name]
    assert one.virsh("hostname").strip() == one.name
    assert one.hypervisor.host_uuid != other.hypervisor.host_uuid
    for host, far in ((one, other), (other, one)):
        host.tell("sh", "-c", f"echo {host.name} > {lab.local}/mine; echo x > {lab.shared}/{host.name}")
        assert far.address in host.tell("getent", "hosts", far.name)
        assert far.virsh("-c", host.uri, "hostname").strip() == host.name
    assert [host.tell("cat", f"{lab.local}/mine").strip() for host in lab.hosts] == [one.name, other.name]
    assert one.outside(lab.local / "mine").read_text().strip() == one.name
    assert {path.name for path in lab.shared.iterdir()} == {one.name, other.name}


def test_the_lab_says_that_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RigError, match="run it as root"):
        Lab()


@pytest.mark.long
def test_a_host_that_is_cut_off_is_silent_and_is_back_when_its_cable_is(
    lab: Lab, pair: Callable[..., Pair]
) -> None:
    both = pair(shared=True)
    guest = both.spawn(0)
    one, other = lab.hosts
    with Pinger(guest.address) as pinger:
        pinger.wait_answer()
        before = guest.last_tick()
        one.cut()
        pinger.wait_silence(1.0)
        assert not answers(one.address, 1) and answers(other.address)
        with pytest.raises(RigError):
            other.virsh("-k", "1", "-K", "1", "-c", one.uri, "hostname", timeout=5)
        assert both.senders[1].call("ping")["pong"]
        guest.wait_ticks(5)
        assert guest.last_tick().number > before.number
        one.mend()
        pinger.wait_answer()
    assert answers(one.address)
    assert both.senders[0].call("ping", wait_s=60)["pong"]
    assert not guest.troubles()


@pytest.mark.long
def test_hosts_that_are_divided_still_reach_the_broker_but_not_each_other(
    lab: Lab, pair: Callable[..., Pair]
) -> None:
    both = pair(shared=True)
    one, other = lab.hosts
    reach = _REACH.format(other.address)
    one.tell(sys.executable, "-c", reach)
    lab.switch.divide()
    with pytest.raises(RigError):
        one.tell(sys.executable, "-c", reach)
    for sender in both.senders:
        assert sender.call("ping")["pong"]
    lab.switch.unite()
    one.tell(sys.executable, "-c", reach)


_REACH = "import socket; socket.create_connection(('{}', 16509), timeout=3).close()"


@pytest.mark.long
def test_guests_outlive_their_hosts_libvirtd_and_agent_and_the_broker(
    lab: Lab, pair: Callable[..., Pair]
) -> None:
    both = pair(shared=True)
    guest = both.spawn(0)
    pid = lab.hosts[0].hypervisor.qemu_pid(guest.uuid)
    lab.broker.kill()
    lab.hosts[0].hypervisor.kill()
    both.agents[0].kill()
    guest.wait_ticks(5)
    lab.broker.start()
    lab.hosts[0].hypervisor.start()
    both.agents[0].start()
    assert both.senders[0].call("ping", wait_s=60)["pong"]
    assert both.senders[1].call("ping", wait_s=60)["pong"]
    assert lab.hosts[0].hypervisor.qemu_pid(guest.uuid) == pid
    assert not guest.troubles()


@pytest.mark.long
def test_a_guest_on_shared_storage_goes_there_and_back_and_notices_nothing(
    lab: Lab, pair: Callable[..., Pair]
) -> None:
    both = pair(shared=True)
    guest = both.spawn(0)
    for agent in both.agents:  # what follows goes past them
        agent.stop()
    one, other = lab.hosts
    with Watch(guest) as watch:
        for source, destination in ((one, other), (other, one)):
            # Libvirt takes a directory for shared storage only if it is on a network's file system.
            guest.migrate_raw(source, destination, "--unsafe", "--persistent", "--undefinesource")
            guest.wait_ticks(5)
            assert guest.running_on() == [destination] and guest.with_qemu() == [destination]
    assert watch.outage.ticks_s < 30 and watch.outage.ping_s < 30
    assert not guest.troubles()
    newest = guest.last_tick().records
    guest.destroy()
    _assert_whole(guest, one, newest)


@pytest.mark.long
def test_a_guest_takes_its_disk_along_to_a_host_with_storage_of_its_own(
    lab: Lab, pair: Callable[..., Pair]
) -> None:
    both = pair(shared=False)
    guest = both.spawn(0)
    for agent in both.agents:
        agent.stop()
    one, other = lab.hosts
    assert not guest.disk_file(other).exists()
    guest.prepare_raw(one, other)
    guest.migrate_raw(one, other, "--copy-storage-all")
    guest.wait_ticks(5)
    assert guest.running_on() == [other] and guest.with_qemu() == [other]
    assert not guest.troubles()
    newest = guest.last_tick().records
    guest.destroy()
    _assert_whole(guest, other, newest)


def _assert_whole(guest: LabGuest, host: Host, at_least: int) -> None:
    """Every record that the guest said was on its disk is there."""
    judged = guest.judge_disk(host)
    assert judged.lost == () and judged.newest >= at_least > 0


@pytest.mark.long
def test_a_slow_wire_makes_a_migration_slow(lab: Lab, pair: Callable[..., Pair]) -> None:
    both = pair(shared=True)
    guest = both.spawn(0)
    for agent in both.agents:
        agent.stop()
    one, other = lab.hosts
    one.shape(mbit=64)
    seconds = guest.migrate_raw(one, other, "--unsafe")
    told = one.virsh("domjobinfo", "--completed", "--rawstats", guest.uuid)
    stats = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
    assert int(stats["memory_processed"]) * 8 / seconds < 80e6
    one.unshape()
    assert guest.running_on() == [other]
    assert not guest.troubles()


@pytest.mark.long
def test_a_guest_that_was_switched_off_goes_on_with_its_records(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True)
    guest = both.spawn(0)
    host = both.hosts[0]
    guest.wait_ticks(10)
    said = guest.last_tick().records
    both.receiver.succeeded(both.senders[0].cast("power_off", instance_uuid=guest.uuid, timeout=60), 90)
    assert "init shutdown" in guest.console()
    _assert_whole(guest, host, said)
    off = guest.judge_disk(host)
    both.receiver.succeeded(both.senders[0].cast("power_on", instance_uuid=guest.uuid), 60)
    wait_until(lambda: f"record {off.newest}\n" in _started(guest), 60, "the second start", guest.console)
    assert linuxguest.console.troubles(guest.console()) == []


def _started(guest: LabGuest) -> str:
    """The last start of the witness, as it said it."""
    lines = [line for line in guest.console().replace("\r", "").splitlines() if "witness start" in line]
    return lines[-1].rstrip() + "\n" if lines else ""

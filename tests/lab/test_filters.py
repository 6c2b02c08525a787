# SPDX-License-Identifier: Apache-2.0
"""Packet filters with real packets: what reaches a guest, what leaves it, and where its filters are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import Pair
from tests.lab.drivers import Driver, prepare
from tests.lab.trial import TCP
from tests.rig.echo import Pinger, answers
from tests.rig.labguest import LabGuest
from tests.rig.labhost import Host
from tests.rig.process import RigError, wait_until

PING: dict[str, Any] = {"protocol": "icmp"}
_SILENCE_S = 1.0
"""How long nothing is to come. An answer takes a few milliseconds."""


def _group(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"id": "web", "rules": list(rules)}


def _spawn(both: Pair, **fields: Any) -> LabGuest:
    """A guest that runs on the first host; whether it can be pinged is the test's business."""
    guest = LabGuest(both.lab, both.instances_path, **fields)
    both.receiver.succeeded(both.senders[0].cast("spawn", instance=guest.instance), 90)
    wait_until(guest.ticks, 120, "its first tick", guest.console)
    return guest


def _is_silent(guest: LabGuest) -> bool:
    return not answers(guest.address, _SILENCE_S)


def _filters(host: Host, guest: LabGuest) -> list[str]:
    return [name for name in host.virsh("nwfilter-list").split() if guest.uuid in name]


def _filtered(host: Host) -> bool:
    """Whether a guest that is on the host is behind a filter."""
    return bool(host.virsh("-q", "nwfilter-binding-list").strip())


def test_only_what_the_rules_let_in_reaches_a_guest(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True)
    ours = both.lab.switch.address
    guest = _spawn(both, security_groups=[_group(PING)])
    assert answers(guest.address)

    def tell(verb: str, **arguments: Any) -> None:
        both.receiver.succeeded(both.senders[0].cast(verb, **arguments))

    def rules(*rules: dict[str, Any]) -> None:
        tell("refresh_security_group_rules", group_id="web", rules=list(rules))

    rules()
    assert _is_silent(guest)
    rules(PING | {"remote_ip_prefix": ours})
    assert answers(guest.address)
    rules(PING | {"remote_ip_prefix": "10.1.0.0/16"}, {"protocol": "tcp"})
    assert _is_silent(guest)
    rules(PING | {"remote_group_id": "db"})
    assert _is_silent(guest)
    tell("refresh_security_group_members", group_id="db", members=[{"address": ours}])
    assert answers(guest.address)
    tell("refresh_provider_fw_rules", rules=[PING])
    assert _is_silent(guest)
    tell("refresh_provider_fw_rules", rules=[])
    assert answers(guest.address)
    tell("refresh_instance_security_rules", instance_uuid=guest.uuid, security_groups=[{"id": "closed"}])
    assert _is_silent(guest)
    tell("update_instance", instance_uuid=guest.uuid, security_groups=[_group(PING)])
    assert answers(guest.address)
    tell("destroy", instance_uuid=guest.uuid)
    assert not _filters(both.hosts[0], guest) and not _filtered(both.hosts[0])


def _in_guest(guest: LabGuest, host: Host, command: str) -> bool:
    """Whether a command that the guest's agent runs ends well."""

    def ask(wanted: str, **arguments: Any) -> Any:
        asked = json.dumps({"execute": wanted, "arguments": arguments})
        with contextlib.suppress(RigError):  # the agent is not up yet
            return json.loads(host.virsh("qemu-agent-command", guest.uuid, asked))["return"]
        return None

    def ended() -> Any:
        told = ask("guest-exec-status", pid=pid)
        return told if told["exited"] else None

    started = wait_until(lambda: ask("guest-exec", path="/bin/sh", arg=["-c", command]), 60, "its agent")
    pid = started["pid"]
    return bool(wait_until(ended, 60, command)["exitcode"] == 0)


@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "not filtered"])
def test_a_filtered_guest_sends_from_its_own_addresses_alone(
    pair: Callable[..., Pair], filtered: bool
) -> None:
    both = pair(shared=True)
    lab, host = both.lab, both.hosts[0]
    address, other = lab.guest_address(), lab.guest_address()
    vif = lab.vif(address, port_filter=filtered)
    guest = _spawn(both, network_info=[vif])
    ping = f"ping -c 2 -W 1 {lab.switch.address}"
    assert _in_guest(guest, host, f"{ping} -I {address}")
    assert _in_guest(guest, host, f"ip address add {other}/24 dev eth0")
    assert _in_guest(guest, host, f"{ping} -I {other}") is not filtered
    assert _in_guest(guest, host, "ip link set eth0 address 02:ca:00:00:00:01")
    assert _in_guest(guest, host, ping) is not filtered
    assert _filtered(host) is filtered


@pytest.mark.long
@pytest.mark.parametrize("shared", [True, False], ids=["shared storage", "own storage"])
def test_filters_are_there_before_the_guest_and_gone_after_it(
    pair: Callable[..., Pair], shared: bool
) -> None:
    both = pair(shared=shared, sections=TCP)
    guest = _spawn(both, security_groups=[_group(PING)])
    for agent in both.agents:
        agent.stop()
    one, other = (Driver(host, agent, guest) for host, agent in zip(both.hosts, both.agents, strict=True))
    data = prepare(one, other)
    assert _filters(other.host, guest) and other.fact(incoming=True) == "absent"
    other.call("roll_back", data=data)
    assert not _filters(other.host, guest)
    data = prepare(one, other)
    one.call("move", data=data, dest=other.agent.host)
    assert other.fact(incoming=True) == "held" and _filtered(other.host)
    other.call("take")
    one.call("finish", data=data)
    assert not _filters(one.host, guest) and not _filtered(one.host)
    assert answers(guest.address)


@pytest.mark.long
def test_rules_that_are_told_while_a_guest_is_moved_hold_before_it_runs(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True, sections=TCP)
    guest = _spawn(both, security_groups=[{"id": "web"}])
    for agent in both.agents:
        agent.stop()
    one, other = (Driver(host, agent, guest) for host, agent in zip(both.hosts, both.agents, strict=True))
    data = prepare(one, other)
    one.call("move", data=data, dest=other.agent.host)
    with Pinger(guest.address, 0.1) as pinger:
        other.call("take", rules={"web": [PING]})
        pinger.wait_answer()
    other.call("take", rules={"web": []})
    assert _is_silent(guest)


@pytest.mark.parametrize("mode", ["live", "cold"])
def test_no_packet_slips_in_while_a_guest_is_moved(pair: Callable[..., Pair], mode: str) -> None:
    both = pair(shared=True, sections=TCP)
    guest = _spawn(both, security_groups=[{"id": "closed"}])
    with Pinger(guest.address, 0.005) as pinger:
        migration = both.senders[0].cast(
            "migrate", instance_uuid=guest.uuid, dest=both.agents[1].host, mode=mode
        )
        both.receiver.succeeded(migration, 120)
        wait_until(lambda: guest.running_on() == [both.hosts[1]], 60, "the guest at the destination")
        wait_until(guest.ticks, 120, "its next tick", guest.console)
        assert not pinger.answers
    both.receiver.succeeded(
        both.senders[1].cast(
            "refresh_instance_security_rules", instance_uuid=guest.uuid, security_groups=[_group(PING)]
        )
    )
    assert answers(guest.address)  # it was there all the time

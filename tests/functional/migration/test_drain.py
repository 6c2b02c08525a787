# SPDX-License-Identifier: Apache-2.0
"""A host is drained: its guests go to others, and none comes until it serves again."""

from __future__ import annotations

import pathlib
import uuid as uuids4
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.rig import instance
from tests.rig.pair import Pair
from tests.rig.process import wait_until

END_S = 90.0


class Drain:
    """A drain of the first of several hosts, as a scheduler sees it."""

    def __init__(self, hosts: Pair, guests: int = 2) -> None:
        self.hosts = hosts
        self.receiver = hosts.receiver
        self.to = hosts.senders[0]
        hosts.start()
        self.uuids = [hosts.spawn() for _ in range(guests)]

    def cast(self, destinations: dict[str, str] | None = None, **more: Any) -> str:
        """Ask for the drain; its operation's id."""
        return self.to.cast("host_maintenance_mode", mode="on", destinations=destinations, **more)

    def all_to(self, side: int, *uuids: str) -> dict[str, str]:
        """All guests, or some, to one host."""
        return dict.fromkeys(uuids or self.uuids, self.hosts.agents[side].host)

    def report(self, operation_id: str) -> dict[str, Any]:
        """What its record says so far of each guest, by uuid."""
        result = self.to.call("get_operation", operation_id=operation_id)["result"] or {"guests": []}
        return {line["instance_uuid"]: line for line in result["guests"]}

    def wait_standing(self, operation_id: str, uuid: str, standing: str) -> None:
        wait_until(
            lambda: self.report(operation_id).get(uuid, {}).get("standing") == standing,
            END_S,
            f"guest {uuid} to be {standing}",
            lambda: str(self.report(operation_id)),
        )

    def migrations(self) -> list[dict[str, Any]]:
        """All migrations that the host's agent was ever asked for."""
        return list(self.to.call("list_operations", verb="migrate")["operations"])

    def assert_refuses(self) -> None:
        """Neither a new guest nor one of another host is let in."""
        made = instance.describe(image=pathlib.Path("/images/a.qcow2"))
        failed = self.receiver.failed(self.to.cast("spawn", instance=made))
        assert failed["data"]["error"]["code"] == "HostDisabled"

    def assert_serves(self) -> None:
        """A new guest is let in, and nothing speaks against more."""
        self.hosts.spawn()
        assert self.to.call("verify")["reasons"] == {}


@pytest.fixture
def drain(pair: Callable[..., Pair]) -> Callable[..., Drain]:
    """Make hosts and guests: `guests` on the first of `hosts`, the rest are options of `[fake]`."""

    def make(guests: int = 2, hosts: int = 2, agent: dict[str, object] | None = None, **fake: Any) -> Drain:
        made = pair(hosts=hosts, **fake)
        for one in made.agents:
            one.configure({"DEFAULT": agent or {}, "host": {"placement_timeout": 600}})
        return Drain(made, guests)

    return make


def test_every_guest_goes_where_it_was_told_and_none_comes(drain: Callable[..., Drain]) -> None:
    it = drain(guests=3, hosts=3, agent={"max_concurrent_live_migrations": 2})
    first, second, third = it.uuids
    it.receiver.succeeded(it.to.cast("pause", instance_uuid=third))
    there = it.all_to(1, first, third) | it.all_to(2, second)
    operation = it.cast(there)
    result = it.receiver.succeeded(operation, END_S)["data"]["result"]
    assert {line["instance_uuid"]: (line["standing"], line["dest"]) for line in result["guests"]} == {
        uuid: ("moved", dest) for uuid, dest in there.items()
    }
    assert (result["total"], result["moved"], result["unknown"]) == (3, 3, [])
    assert [it.hosts.side_of(uuid) for uuid in (first, second)] == [1, 2]
    assert it.hosts.state(1, third) == "paused"
    assert {one["parent_operation_id"] for one in it.migrations()} == {operation}
    it.assert_refuses()
    it.hosts.agents[0].restart(kill=True)
    it.assert_refuses()
    back = {"instance_uuid": first, "dest": it.hosts.agents[0].host, "mode": "live"}
    refused = it.receiver.failed(it.hosts.senders[1].cast("migrate", **back), END_S)
    assert refused["data"]["error"]["code"] == "HostDisabled"
    it.receiver.succeeded(it.to.cast("host_maintenance_mode", mode="off"))
    it.assert_serves()
    it.receiver.succeeded(it.hosts.senders[1].cast("migrate", **back), END_S)
    it.receiver.assert_gapless()


def test_a_guest_that_is_off_goes_cold_and_nothing_of_it_is_kept(drain: Callable[..., Drain]) -> None:
    it = drain(guests=2)
    off, on = it.uuids
    it.receiver.succeeded(it.to.cast("power_off", instance_uuid=off, timeout=0))
    result = it.receiver.succeeded(it.cast(it.all_to(1)), END_S)["data"]["result"]
    assert (result["moved"], result["set_aside"]) == (2, [])
    assert it.hosts.owner(off) == 1 and it.hosts.side_of(on) == 1
    wait_until(lambda: it.hosts.state(1, off) == "stopped", END_S, "its confirmation", it.hosts.evidence)
    here, there = it.hosts.worlds()
    assert off in there.domains and not {off, on} & {*here.domains, *here.directories}
    it.receiver.succeeded(it.hosts.senders[1].cast("power_on", instance_uuid=off))


def test_a_host_is_asked_for_and_may_be_named_in_two_ways(drain: Callable[..., Drain]) -> None:
    """By the destinations of a further cast, or by a migration that the scheduler asks for itself."""
    it = drain()
    operation = it.cast()
    for uuid in it.uuids:
        asked = it.receiver.wait_for(type="host.placement_needed", instance_uuid=uuid, timeout=END_S)
        assert asked["operation_id"] == operation
        assert (asked["data"]["reason"], asked["data"]["mode"]) == ("maintenance", "live")
        assert asked["data"]["flavor"]["memory_mb"] > 0
    first, second = it.uuids
    joined = it.receiver.succeeded(it.cast(it.all_to(1, first)))
    assert joined["data"]["result"] == {"joined": operation}
    it.receiver.succeeded(it.hosts.migrate(second), END_S)
    result = it.receiver.succeeded(operation, END_S)["data"]["result"]
    assert result["moved"] == 2
    asked_for = [one for one in it.receiver.distinct() if one["type"] == "host.placement_needed"]
    assert len(asked_for) == 2, "once for each"


def test_the_report_says_what_blocks_and_a_further_drain_goes_on(drain: Callable[..., Drain]) -> None:
    it = drain(guests=3)
    suspended, lost, fine = it.uuids
    it.receiver.succeeded(it.to.cast("suspend", instance_uuid=suspended))
    operation = it.cast(it.all_to(1) | {lost: "nobody"})
    end = it.receiver.failed(operation, END_S)["data"]
    assert end["error"]["code"] == "MigrationFailed"
    lines = {line["instance_uuid"]: line for line in end["result"]["guests"]}
    assert {uuid: line["standing"] for uuid, line in lines.items()} == {
        suspended: "blocked",
        lost: "blocked",
        fine: "moved",
    }
    assert lines[suspended]["error"]["code"] == "InvalidState"
    assert "resume" in lines[suspended]["error"]["hint"]
    assert lines[lost]["error"]["code"] == "DestinationUnreachable"
    assert it.hosts.side_of(lost) == 0
    it.receiver.succeeded(it.to.cast("resume", instance_uuid=suspended))
    again = it.receiver.succeeded(it.cast(it.all_to(1, suspended, lost)), END_S)["data"]["result"]
    assert (again["total"], again["moved"]) == (2, 2)
    assert [it.hosts.side_of(uuid) for uuid in it.uuids] == [1, 1, 1]


@pytest.mark.long
def test_whom_nobody_places_is_told_as_blocked(drain: Callable[..., Drain]) -> None:
    it = drain(guests=1)
    it.hosts.agents[0].configure({"host": {"placement_timeout": 1}})
    it.hosts.agents[0].restart()
    end = it.receiver.failed(it.cast(), END_S)["data"]
    (line,) = end["result"]["guests"]
    assert (line["standing"], line["error"]["code"]) == ("blocked", "Timeout")
    assert it.hosts.state(0, it.uuids[0]) == "active"


def test_cancelled_in_the_middle_then_finished(drain: Callable[..., Drain]) -> None:
    it = drain(guests=3, transfer_time=600)
    operation = it.cast(it.all_to(1))
    moved = _force_one(it, operation)
    wait_until(lambda: _transferred(it) is not None, END_S, "the next transfer", it.hosts.evidence)
    it.receiver.succeeded(it.to.cast("cancel_operation", target=operation), END_S)
    end = it.receiver.end_of(operation, END_S)
    assert end["type"] == "operation.cancelled"
    standings = {line["instance_uuid"]: line["standing"] for line in end["data"]["result"]["guests"]}
    assert standings.pop(moved) == "moved" and "moving" not in standings.values()
    assert it.hosts.side_of(moved) == 1
    for uuid in standings:
        assert it.hosts.side_of(uuid) == 0 and it.hosts.owner(uuid) == 0
        assert it.hosts.state(0, uuid) == "active"
    it.assert_refuses()
    for agent in it.hosts.agents:
        agent.configure({"fake": {"transfer_time": 0}})
        agent.restart()
    result = it.receiver.succeeded(it.cast(it.all_to(1)), END_S)["data"]["result"]
    assert (result["total"], result["moved"]) == (2, 2)
    for uuid in it.uuids:
        assert it.hosts.side_of(uuid) == 1
        it.hosts.assert_never_two(uuid)
    it.receiver.assert_gapless()


@pytest.mark.long
def test_the_host_serves_again_while_it_is_drained(drain: Callable[..., Drain]) -> None:
    it = drain(transfer_time=600)
    operation = it.cast(it.all_to(1))
    wait_until(lambda: _transferred(it) is not None, END_S, "a transfer", it.hosts.evidence)
    it.receiver.succeeded(it.to.cast("host_maintenance_mode", mode="off"), END_S)
    assert it.receiver.end_of(operation)["type"] == "operation.cancelled"
    assert [it.hosts.side_of(uuid) for uuid in it.uuids] == [0, 0]
    it.assert_serves()


@pytest.mark.long
def test_other_verbs_of_the_host_do_not_wait_for_a_drain(drain: Callable[..., Drain]) -> None:
    it = drain(guests=1)
    operation = it.cast()
    it.receiver.wait_for(type="host.placement_needed", timeout=END_S)
    it.receiver.succeeded(it.to.cast("refresh_security_group_rules", group_id="g", rules=[]))
    assert it.to.call("get_operation", operation_id=operation)["waiting_for"] == "a host for 1"
    it.hosts.agents[0].stop(timeout=20)
    it.hosts.agents[0].start()
    it.receiver.succeeded(it.to.cast("cancel_operation", target=operation))
    assert it.hosts.side_of(it.uuids[0]) == 0


# --- killed -------------------------------------------------------------------------------------------

POINTS = ["host_maintenance_mode.begun", "drain.begun", "drain.sending", "drain.sent", "drain.closed"]
POINTS += ["host_maintenance_mode.done", "migrate.begun", "migrate.begun@2", "migrate.done", "migrate.done@2"]
EARLY = ["drain.calling_back", "drain.ended_early"]


def _killed(it: Drain, points: Sequence[str]) -> None:
    """Kill the draining agent at each point of a drain of its own; the guests go back and forth."""
    for point in points:
        name, _, nth = point.partition("@")
        it.hosts.arm(0, f"{name}=kill{f'@{nth}' if nth else ''}")
        before = len(it.migrations())
        operation = it.cast(it.all_to(1))
        it.hosts.agents[0].wait_end(END_S)
        it.hosts.agents[0].start()
        result = it.receiver.succeeded(operation, END_S)["data"]["result"]
        assert (result["total"], result["moved"]) == (len(it.uuids), len(it.uuids)), point
        assert len(it.migrations()) == before + len(it.uuids), f"{point}: nothing is moved twice"
        assert [it.hosts.side_of(uuid) for uuid in it.uuids] == [1] * len(it.uuids), point
        it.assert_refuses()
        it.receiver.succeeded(it.to.cast("host_maintenance_mode", mode="off"))
        for uuid in it.uuids:
            it.receiver.succeeded(it.hosts.migrate(uuid, 1), END_S)
    for uuid in it.uuids:
        it.hosts.assert_never_two(uuid)
    it.receiver.assert_gapless()


def test_killed_where_it_matters_most(drain: Callable[..., Drain]) -> None:
    _killed(drain(), ["drain.sent"])


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("points", [POINTS[:5], POINTS[5:]], ids=["first", "second"])
def test_killed_at_every_point_of_a_drain(drain: Callable[..., Drain], points: list[str]) -> None:
    _killed(drain(), points)


@pytest.mark.long
def test_killed_when_it_has_just_asked_for_hosts(drain: Callable[..., Drain]) -> None:
    it = drain()
    it.hosts.arm(0, "drain.asked=kill")
    operation = it.cast()
    it.hosts.agents[0].wait_end(END_S)
    it.hosts.agents[0].start()
    it.receiver.succeeded(it.cast(it.all_to(1)), END_S)
    assert it.receiver.succeeded(operation, END_S)["data"]["result"]["moved"] == 2
    asked_for = [one for one in it.receiver.distinct() if one["type"] == "host.placement_needed"]
    assert len(asked_for) == 2, "once for each, whatever happens"


@pytest.mark.long
@pytest.mark.parametrize("point", EARLY)
def test_killed_while_it_is_given_up(drain: Callable[..., Drain], point: str) -> None:
    it = drain(transfer_time=600)
    it.hosts.arm(0, f"{point}=kill")
    operation = it.cast(it.all_to(1))
    wait_until(lambda: _transferred(it) is not None, END_S, "a transfer", it.hosts.evidence)
    given_up = it.to.cast("host_maintenance_mode", mode="off", operation_id=str(uuids4.uuid4()))
    it.hosts.agents[0].wait_end(END_S)
    it.hosts.agents[0].start()
    it.receiver.succeeded(given_up, END_S)
    assert it.receiver.end_of(operation, END_S)["type"] == "operation.cancelled"
    assert [it.hosts.side_of(uuid) for uuid in it.uuids] == [0, 0]
    it.assert_serves()


def _transferred(it: Drain) -> str | None:
    """The guest whose memory is on its way, if there is one."""
    for operation in it.migrations():
        uuid = operation["instance_uuid"]
        if operation["state"] == "running" and operation["step"] == "moving":
            status = it.to.call("get_migration_status", instance_uuid=uuid)
            if status["migration"]["status"] == "running":
                return str(uuid)
    return None


def _force_one(it: Drain, operation: str) -> str:
    """Let one of the guests arrive; which."""
    wait_until(lambda: _transferred(it) is not None, END_S, "a transfer", it.hosts.evidence)
    uuid = _transferred(it)
    assert uuid is not None
    it.receiver.succeeded(it.to.cast("live_migration_force_complete", instance_uuid=uuid), END_S)
    it.wait_standing(operation, uuid, "moved")
    return uuid

# SPDX-License-Identifier: Apache-2.0
"""A host with five real guests is drained, cancelled in the middle, then finished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import Pair
from tests.rig.labguest import LabGuest
from tests.rig.process import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

GUESTS = 5
END_S = 600.0
TCP = {"libvirt": {"live_migration_scheme": "tcp", "live_migration_trust_shared_storage": True}}


def test_five_guests_leave_cancelled_in_the_middle_then_finished(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True, sections=TCP)
    guests = spawned(both)
    old, new = both.hosts
    operation = drained(both, guests)

    def in_the_middle() -> bool:
        told = counts(both, operation)
        return bool(told.get("moved") and told.get("moving"))

    wait_until(
        in_the_middle,
        END_S,
        "a guest to be moved and one on its way",
        lambda: str(counts(both, operation)),
    )
    both.receiver.succeeded(both.senders[0].cast("cancel_operation", target=operation), END_S)
    end = both.receiver.end_of(operation, END_S)
    assert end["type"] == "operation.cancelled"
    standings = {line["instance_uuid"]: line["standing"] for line in end["data"]["result"]["guests"]}
    moved = [guest for guest in guests if standings[guest.uuid] == "moved"]
    stayed = [guest for guest in guests if guest not in moved]
    assert 1 <= len(moved) < GUESTS, standings
    for guest in guests:
        wait_until(
            lambda guest=guest: guest.running_on() == guest.with_qemu() == [new if guest in moved else old],
            END_S,
            f"guest {guest.uuid} to run at one host",
            lambda guest=guest: str(guest.with_qemu()),
        )
        guest.wait_ticks(3, END_S)
    result = both.receiver.succeeded(drained(both, stayed), END_S)["data"]["result"]
    assert (result["total"], result["moved"]) == (len(stayed), len(stayed))
    assert result["unknown"] == []
    assert old.hypervisor.domains() == {} and old.hypervisor.qemu_pids() == {}
    for guest in guests:
        assert guest.running_on() == guest.with_qemu() == [new]
        guest.wait_ticks(3, END_S)
        assert not guest.troubles()
    assert both.senders[0].call("list_instance_uuids")["uuids"] == []
    both.receiver.assert_gapless()
    judge(both, guests)


def spawned(both: Pair) -> list[LabGuest]:
    """Guests on the first host, all up."""
    guests = [LabGuest(both.lab, both.instances_path) for _ in range(GUESTS)]
    asked = [both.senders[0].cast("spawn", instance=guest.instance) for guest in guests]
    for operation in asked:
        both.receiver.succeeded(operation, END_S)
    for guest in guests:
        guest.wait_up(END_S)
    return guests


def drained(both: Pair, guests: list[LabGuest]) -> str:
    """Ask for the drain of the first host; its operation's id."""
    there = dict.fromkeys((guest.uuid for guest in guests), both.agents[1].host)
    return both.senders[0].cast("host_maintenance_mode", mode="on", destinations=there)


def counts(both: Pair, operation: str) -> dict[str, Any]:
    """What its record says so far."""
    return dict(both.senders[0].call("get_operation", operation_id=operation)["result"] or {})


def judge(both: Pair, guests: list[LabGuest]) -> None:
    """All that the guests wrote is on their disks."""
    for guest in guests:
        newest = guest.last_tick().records
        guest.destroy()
        judged = guest.judge_disk(both.hosts[1])
        assert judged.lost == () and judged.newest >= newest

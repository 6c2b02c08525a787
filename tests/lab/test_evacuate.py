# SPDX-License-Identifier: Apache-2.0
"""A host loses its power, its guest is evacuated to the other, and the old host comes back, without harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.conftest import Pair
from tests.rig.labguest import LabGuest
from tests.rig.linuxguest import console as consoles
from tests.rig.process import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

END_S = 240.0
_START = re.compile(r"^witness start (\d+) record (\d+)\s*$", re.M)


@pytest.mark.parametrize(
    ("shared", "disks", "on_host_boot"),
    [(True, "reuse", "resume"), (True, "reuse", "confirm"), (False, "recreate", "confirm")],
    ids=["shared, resume", "shared, confirm", "recreated, confirm"],
)
def test_an_evacuated_guest_is_safe_from_its_old_host(
    pair: Callable[..., Pair], shared: bool, disks: str, on_host_boot: str
) -> None:
    both = pair(shared=shared, sections={"DEFAULT": {"on_host_boot": on_host_boot}})
    guest = both.spawn(0, generation=1)
    guest.wait_ticks(5)
    old, new = both.hosts
    written = guest.last_tick().records
    old.lose_power()
    assert guest.with_qemu() == []

    _refused_without_a_word_that_it_is_off(both, guest, disks)
    guest.forget_ticks()
    _evacuate(both, guest, disks, fenced=True)
    guest.wait_up(END_S)
    found = int(_START.findall(_console(both, guest))[-1][1])
    assert found >= written if disks == "reuse" else found == 0

    old.boot()
    mark = both.receiver.mark()
    both.agents[0].start()
    _says_what_it_found(both, guest, on_host_boot, mark)
    guest.wait_ticks(5)
    assert guest.running_on() == guest.with_qemu() == [new]

    _destroyed_at_the_old_host(both, guest, shared)
    guest.wait_ticks(5)
    assert guest.running_on() == guest.with_qemu() == [new]
    assert not _troubles(both, guest)
    assert both.senders[1].call("get_instance", instance_uuid=guest.uuid)["state"] == "active"
    both.receiver.assert_gapless()
    newest = guest.last_tick().records
    guest.destroy()
    judged = guest.judge_disk(new)
    assert judged.lost == () and judged.newest >= newest


def _evacuate(both: Pair, guest: LabGuest, disks: str, *, fenced: bool) -> dict[str, Any]:
    again = guest.instance | {"generation": 2}
    asked = both.senders[1].cast("evacuate", instance=again, disks=disks, fenced=fenced)
    return both.receiver.succeeded(asked, END_S) if fenced else both.receiver.failed(asked, END_S)


def _refused_without_a_word_that_it_is_off(both: Pair, guest: LabGuest, disks: str) -> None:
    refused = _evacuate(both, guest, disks, fenced=False)
    assert refused["data"]["error"]["code"] in ("PreconditionFailed", "InvalidArguments")
    assert guest.with_qemu() == []
    assert both.senders[1].call("list_instance_uuids")["uuids"] == []


def _console(both: Pair, guest: LabGuest) -> str:
    path = both.hosts[1].outside(guest.directory / "console.log")
    return path.read_text(errors="replace")


def _troubles(both: Pair, guest: LabGuest) -> list[object]:
    """What went wrong since it was started anew."""
    life = _console(both, guest).rpartition("witness start")[2]
    return [*consoles.troubles(life), *consoles.gaps(guest.ticks(), complete=False)]


def _says_what_it_found(both: Pair, guest: LabGuest, on_host_boot: str, mark: int) -> None:
    """The old host's guest is off, and stays so, as its events say."""
    here = both.agents[0].host
    stopped = both.receiver.wait_for(
        type="instance.lifecycle.stopped", instance_uuid=guest.uuid, host=here, since=mark, timeout=END_S
    )
    assert stopped["data"]["observed"] == "reconciled"
    if on_host_boot == "resume":
        failed = both.receiver.wait_for(
            type="operation.failed", instance_uuid=guest.uuid, host=here, since=mark, timeout=END_S
        )
        assert (failed["data"]["verb"], failed["data"]["error"]["code"]) == ("power_on", "WrongHost")
        assert both.hosts[1].name in failed["data"]["error"]["message"]
        return
    hello = both.receiver.wait_for(type="host.hello", host=here, since=mark, timeout=END_S)
    assert hello["data"]["instances"] == [{"uuid": guest.uuid, "generation": 1}]
    both.receiver.succeeded(both.senders[0].cast("confirm_instances", instance_uuids=[]))
    wait_until(
        lambda: both.senders[0].call("get_instance", instance_uuid=guest.uuid)["state"] == "stopped",
        END_S,
        "the old record to say that it is off",
    )


def _destroyed_at_the_old_host(both: Pair, guest: LabGuest, shared: bool) -> None:
    """What the scheduler does next: the old host forgets it, and removes only what is its own."""
    destroyed = both.receiver.succeeded(both.senders[0].cast("destroy", instance_uuid=guest.uuid), END_S)
    assert bool(destroyed["data"]["result"].get("files_kept")) == shared
    assert guest.on(both.hosts[0]).state == "absent"
    assert both.hosts[0].outside(guest.directory).exists() == shared
    assert both.hosts[1].outside(guest.directory).exists()

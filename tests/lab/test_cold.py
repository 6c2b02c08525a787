# SPDX-License-Identifier: Apache-2.0
"""Cold migration and resize as a scheduler asks for them: by cast, from agent to agent, of a real guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.conftest import Pair
from tests.rig.labguest import MEMORY_MB, LabGuest
from tests.rig.labhost import Host
from tests.rig.process import wait_until

pytestmark = pytest.mark.timeout(900)

LARGER = {"vcpus": 1, "memory_mb": MEMORY_MB + 32, "root_gb": 1, "swap_mb": 8}
_SLOW_MBIT = 16.0


def _moves(both: Pair, guest: LabGuest, source: int, destination: int, **policy: object) -> str:
    """Ask that it is resized at the other host; the operation."""
    dest = both.agents[destination].host
    asked: str = both.senders[source].cast(
        "migrate", instance_uuid=guest.uuid, dest=dest, mode="cold", flavor=LARGER, **policy
    )
    return asked


def _moved(both: Pair, guest: LabGuest, source: int = 0, destination: int = 1) -> None:
    both.receiver.succeeded(_moves(both, guest, source, destination), 320)
    _is_up(both, guest, destination)


def _is_up(both: Pair, guest: LabGuest, at: int) -> None:
    """It runs there and nowhere else, answers, and writes."""
    assert guest.running_on() == [both.hosts[at]] == guest.with_qemu()
    guest.forget_ticks()
    guest.wait_up()


def _left(both: Pair, guest: LabGuest, at: int) -> list[str]:
    """What a host has of it."""
    host = both.hosts[at]
    found = [path.name for path in host.outside(guest.instances_path).glob(f"{guest.uuid}*")]
    state = both.agents[at].state_path / "transfers"
    found += [path.name for path in state.glob("*")]
    return found + _programs(both, guest, at)


def _programs(both: Pair, guest: LabGuest, at: int) -> list[str]:
    """The programs that serve a transfer of it at a host."""
    directory = str(both.agents[at].state_path / "transfers" / guest.uuid)
    told = both.hosts[at].tell("ps", "-ewwo", "args")
    return [line for line in told.splitlines() if "qemu-" in line.split()[0] and f"dir={directory}" in line]


def _judge(both: Pair, guest: LabGuest, at: int, newest: int) -> None:
    """All that it had written is on its disk."""
    guest.destroy()
    wait_until(lambda: not guest.with_qemu(), 60, "the end of the guest")
    judged = guest.judge_disk(both.hosts[at])
    assert judged.lost == () and judged.newest >= newest


def test_a_running_guest_is_resized_there_and_stays(pair: Callable[..., Pair]) -> None:
    both = pair(shared=False)
    guest = both.spawn(0)
    newest = guest.last_tick().records
    _moved(both, guest)
    assert guest.on(both.hosts[1]).xml().findtext("memory") == str(LARGER["memory_mb"] * 1024)  # type: ignore[operator]
    assert f"{guest.uuid}_resize.{both.agents[0].host}" in _left(both, guest, 0)
    both.receiver.succeeded(both.senders[1].cast("confirm_migration", instance_uuid=guest.uuid), 120)
    wait_until(lambda: not _left(both, guest, 0), 60, "nothing at the source")
    assert _left(both, guest, 1) == [guest.uuid]
    both.receiver.assert_gapless()
    _judge(both, guest, 1, newest)


@pytest.mark.long
@pytest.mark.parametrize("shared", [True, False], ids=["shared storage", "own storage"])
def test_it_is_reverted_and_resized_again(pair: Callable[..., Pair], shared: bool) -> None:
    both = pair(shared=shared)
    guest = both.spawn(0)
    before = _definition(both.hosts[0], guest)
    _moved(both, guest)
    both.receiver.succeeded(both.senders[1].cast("revert_migration", instance_uuid=guest.uuid), 320)
    _is_up(both, guest, 0)
    assert _definition(both.hosts[0], guest) == before
    assert _left(both, guest, 0) == [guest.uuid]
    assert _left(both, guest, 1) == ([guest.uuid] if shared else [])
    newest = guest.last_tick().records
    _moved(both, guest)
    both.receiver.succeeded(both.senders[1].cast("confirm_migration", instance_uuid=guest.uuid), 120)
    wait_until(lambda: _left(both, guest, 0) == ([guest.uuid] if shared else []), 60, "nothing at the source")
    _judge(both, guest, 1, newest)


def _definition(host: Host, guest: LabGuest) -> str:
    return host.virsh("dumpxml", "--inactive", "--security-info", guest.uuid)


def _sends(both: Pair, guest: LabGuest) -> bool:
    """Whether the files are on their way."""
    return bool(_programs(both, guest, 0))


def _kill_source(both: Pair) -> None:
    both.agents[0].kill()
    both.agents[0].start()


def _kill_destination(both: Pair) -> None:
    both.agents[1].kill()
    both.agents[1].start()


def _cut(both: Pair) -> None:
    both.hosts[1].cut()
    both.hosts[1].mend()


@pytest.mark.long
@pytest.mark.parametrize("fault", [_kill_source, _kill_destination, _cut])
def test_a_transfer_goes_on_whatever_happens_in_it(
    pair: Callable[..., Pair], fault: Callable[[Pair], None]
) -> None:
    both = pair(
        shared=False, sections={"libvirt": {"cold_migration_stall_timeout": 5, "cold_migration_chunk": 1}}
    )
    guest = both.spawn(0)
    newest = guest.last_tick().records
    both.hosts[0].shape(_SLOW_MBIT)
    asked = _moves(both, guest, 0, 1)
    wait_until(lambda: _sends(both, guest), 180, "the files on their way")
    fault(both)
    both.hosts[0].unshape()
    both.receiver.succeeded(asked, 320)
    _is_up(both, guest, 1)
    both.receiver.succeeded(both.senders[1].cast("confirm_migration", instance_uuid=guest.uuid), 120)
    wait_until(lambda: not _left(both, guest, 0), 60, "nothing at the source")
    _judge(both, guest, 1, newest)


@pytest.mark.long
def test_a_transfer_that_is_aborted_leaves_the_guest_here_and_nothing_there(
    pair: Callable[..., Pair],
) -> None:
    both = pair(shared=False)
    guest = both.spawn(0)
    before = _definition(both.hosts[0], guest)
    both.hosts[0].shape(_SLOW_MBIT)
    asked = _moves(both, guest, 0, 1)
    wait_until(lambda: _sends(both, guest), 180, "the files on their way")
    both.receiver.succeeded(both.senders[0].cast("live_migration_abort", instance_uuid=guest.uuid), 60)
    assert both.receiver.end_of(asked, 120)["data"]["error"]["code"] == "Cancelled"
    both.hosts[0].unshape()
    _is_up(both, guest, 0)
    assert _definition(both.hosts[0], guest) == before
    assert _left(both, guest, 0) == [guest.uuid]
    wait_until(lambda: not _left(both, guest, 1), 60, "nothing at the destination")

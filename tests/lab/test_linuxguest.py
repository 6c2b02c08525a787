# SPDX-License-Identifier: Apache-2.0
"""The Linux guest is a good witness: nothing lost or broken escapes it, or those who read it."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from tests.lab.conftest import Pair
from tests.rig.linuxguest import console, mac_of, records, ticks
from tests.rig.linuxguest.build import base_image
from tests.rig.process import wait_until

_SLOTS = 8


def _record(number: int) -> bytes:
    block = f"record {number} 1234 ".encode().ljust(records.BLOCK - 4, b"x")
    return block + zlib.crc32(block).to_bytes(4, "little")


def _zone(newest: int) -> list[bytes]:
    """What a zone holds after so many records."""
    slots = [b"\0" * records.BLOCK] * _SLOTS
    for number in range(1, newest + 1):
        slots[(number - 1) % _SLOTS] = _record(number)
    return slots


@pytest.mark.parametrize("newest", [0, 1, 5, 8, 9, 21])
def test_a_whole_zone_is_judged_whole(newest: int) -> None:
    judged = records.judge_zone(b"".join(_zone(newest)))
    assert judged == records.Judgement(newest, min(newest, _SLOTS), ())


def test_a_damaged_and_an_old_record_are_found_lost() -> None:
    slots = _zone(21)
    slots[(18 - 1) % _SLOTS] = _record(18).replace(b"x", b"y", 1)
    slots[(20 - 1) % _SLOTS] = _record(12)
    assert records.judge_zone(b"".join(slots)).lost == (18, 20)


def test_ticks_are_read_past_what_else_is_said_and_past_cut_lines() -> None:
    text = (
        "init up\r\ntick 1 up 100 records 2 failed 0\r\nick 2 up 200 records 3 failed 0\r\ntick 3 up 300 rec"
    )
    assert ticks(text) == [console.Tick(1, 100, 2, 0)]


def test_a_lost_tick_a_jump_and_a_step_back_are_gaps() -> None:
    def tick(number: int, up_ms: int) -> console.Tick:
        return console.Tick(number, up_ms, number, 0)

    steady = [tick(1, 100), tick(2, 200), tick(3, 300)]
    assert console.gaps(steady) == []
    assert len(console.gaps([*steady, tick(5, 500)])) == 1
    assert len(console.gaps([*steady, tick(4, 99_000)])) == 1
    assert len(console.gaps([*steady, tick(4, 200)])) == 1


def test_an_address_is_in_the_mac() -> None:
    assert mac_of("10.77.3.101") == "02:ca:0a:4d:03:65"


@pytest.mark.long
def test_the_image_is_made_once() -> None:
    first = base_image()
    made = first.stat().st_ino
    assert base_image() == first and first.stat().st_ino == made


@pytest.mark.long
def test_writes_that_fail_are_told(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True)
    guest = both.spawn(0)
    # Past the end of a disk that has shrunk under the guest nothing can be written.
    both.hosts[0].virsh("blockresize", guest.uuid, "vda", "40M")
    wait_until(lambda: "witness write failed" in guest.console(), 60, "a failed write", guest.console)
    wait_until(lambda: guest.last_tick().failed > 0, 60, "its count", guest.console)
    assert any("write failed" in trouble for trouble in guest.troubles())


@pytest.mark.long
def test_the_guest_agent_and_the_power_button_work(pair: Callable[..., Pair]) -> None:
    both = pair(shared=True)
    guest, host = both.spawn(0), both.hosts[0]
    assert guest.address in host.virsh("domifaddr", guest.uuid, "--source", "agent")
    host.virsh("shutdown", guest.uuid, "--mode", "acpi")
    guest.on(host).wait_state("shutoff", 60)
    assert "init shutdown" in guest.console()

# SPDX-License-Identifier: Apache-2.0
"""Hypervisor: real guests on a private libvirtd, which may come and go under them."""

from __future__ import annotations

import contextlib
import uuid as uuids
from collections.abc import Callable

import pytest

from tests.rig import domain
from tests.rig.bootsector import POLITE, SHORT_LIVED, TICKER, Ending, Guestware
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.process import is_alive, wait_until

Boot = Callable[..., Guest]


@pytest.fixture
def boot(fresh_hypervisor: Hypervisor) -> Boot:
    """Define and start a plain domain that runs the given program."""

    def start(program: Guestware, *, on: Hypervisor = fresh_hypervisor, machine: str = "pc") -> Guest:
        uuid = str(uuids.uuid4())
        disk = on.images.qcow2(uuid, program)
        console = on.scratch / f"{uuid}.console"
        xml = domain.plain_domain(disk, console, uuid=uuid, disk_format="qcow2", machine=machine)
        with contextlib.closing(on.connect()) as connection:
            connection.defineXML(xml).create()
        return Guest(on, uuid)

    return start


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_guest_greets_on_its_console_and_is_destroyed(boot: Boot, machine: str) -> None:
    guest = boot(Guestware(greeting="I am here"), machine=machine)
    guest.wait_console("I am here")
    pid = guest.qemu_pid
    assert pid is not None
    with guest.domain() as running:
        running.destroy()
    assert not is_alive(pid)
    assert guest.state == "shutoff"


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_guests_live_on_while_libvirtd_restarts(boot: Boot, kill: bool) -> None:
    guest = boot(TICKER)
    guest.wait_console("tick 1")
    pid, before = guest.qemu_pid, guest.hypervisor.pid
    guest.hypervisor.restart(kill=kill)
    assert guest.hypervisor.pid != before
    assert guest.qemu_pid == pid
    assert guest.running
    said = guest.console()
    wait_until(lambda: len(guest.console()) > len(said), 10, "a further tick")


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_a_polite_guest_follows_the_power_button(boot: Boot, machine: str) -> None:
    guest = boot(POLITE, machine=machine)
    guest.wait_console(POLITE.greeting)
    with guest.domain() as running:
        running.shutdown()
    guest.wait_state("shutoff")


def test_an_impolite_guest_ignores_the_power_button(boot: Boot) -> None:
    guest = boot(Guestware(tick_every=5))
    guest.wait_console("tick 1")
    with guest.domain() as running:
        running.shutdown()
    said = guest.console()
    wait_until(lambda: guest.console().count("tick") > said.count("tick") + 3, 10, "further ticks")
    assert guest.state == "running"


def test_a_guest_may_end_by_itself(boot: Boot) -> None:
    boot(SHORT_LIVED).wait_state("shutoff")


def test_a_guest_may_reset_itself(boot: Boot) -> None:
    guest = boot(Guestware(greeting="once more", ending=Ending.RESET, ending_after=4))
    wait_until(lambda: guest.console().count("once more") >= 3, 20, "three boots", guest.console)


def test_suspended_memory_is_kept(boot: Boot) -> None:
    guest = boot(TICKER)
    guest.wait_console("tick 2")
    with guest.domain() as running:
        running.managedSave(0)
        assert guest.has_saved_memory
        assert guest.qemu_pid is None
        running.create()
    wait_until(lambda: "tick" in guest.console(), 10, "ticks after the start")
    assert "tick 1\r" not in guest.console()


def test_a_killed_guest_is_gone_and_libvirt_notices(boot: Boot) -> None:
    guest = boot(TICKER)
    guest.kill()
    assert guest.qemu_pid is None
    guest.wait_state("shutoff")


def test_the_files_of_a_guest_are_those_of_its_domain(boot: Boot) -> None:
    guest = boot(TICKER)
    (disk,) = guest.disks
    assert guest.disk_chain(disk)[0]["format"] == "qcow2"
    assert guest.taps == []


def test_what_a_test_leaves_is_removed(fresh_hypervisor: Hypervisor, boot: Boot) -> None:
    keep, leave = boot(TICKER), boot(TICKER)
    fresh_hypervisor.destroy_all(but={keep.uuid: True})
    assert keep.running
    assert leave.state == "absent"


def test_two_hypervisors_know_nothing_of_each_other_and_leave_nothing(boot: Boot) -> None:
    with Hypervisor() as one, Hypervisor() as other:
        here, there = boot(TICKER, on=one), boot(TICKER, on=other)
        assert set(one.domains()) == {here.uuid}
        assert set(other.domains()) == {there.uuid}
        one.kill()
        there.wait_console("tick 1")
        assert other.domains() == {there.uuid: True}
        pids = [*one.supervisor.children(), *other.supervisor.children(), one.supervisor.pid]
        assert len(pids) >= 6
    assert not [pid for pid in pids if is_alive(pid)]
    assert not one.scratch.exists()
    assert not other.scratch.exists()


def test_a_hung_libvirtd_is_mended_and_guests_ran_on(boot: Boot) -> None:
    guest = boot(TICKER)
    guest.hypervisor.suspend()
    ticks = (guest.hypervisor.scratch / f"{guest.uuid}.console").read_text().count("tick")
    console = guest.hypervisor.scratch / f"{guest.uuid}.console"
    wait_until(lambda: console.read_text().count("tick") > ticks, 10, "ticks meanwhile")
    guest.hypervisor.ensure()
    assert guest.running

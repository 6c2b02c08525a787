# SPDX-License-Identifier: Apache-2.0
"""What is around a migration fails in the middle of it: libvirtd, the wire, the broker, a host's power."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.conftest import Pair
from tests.lab.trial import SLOW_MBIT, TCP, Trial, on_trial
from tests.rig.labhost import Host
from tests.rig.process import wait_until

pytestmark = [pytest.mark.timeout(1200)]

SOURCE, DESTINATION = "source", "destination"
at_either_end = pytest.mark.parametrize("end", [SOURCE, DESTINATION])


def _host(trial: Trial, end: str) -> Host:
    return trial.source_host if end == SOURCE else trial.destination_host


def _in_transfer(trial: Trial) -> None:
    """Begin a migration over a wire so slow that it is caught in the middle of it."""
    trial.source_host.shape(SLOW_MBIT)
    trial.migrate(timeout_s=900)
    trial.wait_copying()


@pytest.mark.long
@at_either_end
def test_libvirtd_killed_in_the_transfer(pair: Callable[..., Pair], end: str) -> None:
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        _in_transfer(trial)
        struck = _host(trial, end).hypervisor
        struck.kill()
        struck.start()
        trial.source_host.unshape()
        trial.settle(moved=False, error="MigrationFailed")
        trial.moves_on()


@pytest.mark.long
@at_either_end
def test_the_wire_cut_before_the_transfer(pair: Callable[..., Pair], end: str) -> None:
    with on_trial(pair(shared=True, sections=TCP)) as trial:
        trial.arm(trial.destination, "handshake.do.make_ready=delay:5")
        trial.migrate()
        trial.wait_phase("asked")
        cut = _host(trial, end)
        cut.cut()
        trial.guest.wait_ticks(40)
        cut.mend()
        trial.settle()
        trial.moves_on()


@pytest.mark.long
@at_either_end
def test_the_wire_cut_in_the_transfer(pair: Callable[..., Pair], end: str) -> None:
    """Libvirt finds out by itself, by the silence on its connection."""
    with on_trial(pair(shared=True, sections=TCP)) as trial:
        _in_transfer(trial)
        cut = _host(trial, end)
        cut.cut()
        wait_until(lambda: not trial.has_job(), 240, "the end of the transfer", trial.evidence)
        trial.guest.wait_ticks(20)
        trial.source_host.unshape()
        cut.mend()
        trial.settle(moved=False, error="MigrationFailed")
        trial.moves_on()


@pytest.mark.long
@at_either_end
def test_the_wire_cut_while_a_disk_is_copied(pair: Callable[..., Pair], end: str) -> None:
    """QEMU takes as long as TCP to find out; the guest goes on, and it ends when the wire is mended."""
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        _in_transfer(trial)
        cut = _host(trial, end)
        cut.cut()
        trial.guest.wait_ticks(400, 240)
        trial.source_host.unshape()
        cut.mend()
        trial.settle()
        trial.moves_on()


@pytest.mark.long
@at_either_end
def test_the_wire_cut_at_the_switch_over(pair: Callable[..., Pair], end: str) -> None:
    """All was transferred, and the destination is not told: the guest is held until the wire is mended."""
    with on_trial(pair(shared=True, sections=TCP)) as trial:
        trial.arm(trial.source, "handshake.given.before=delay:5")
        trial.migrate()
        trial.wait_left()
        cut = _host(trial, end)
        cut.cut()
        trial.stays_held(10)
        cut.mend()
        trial.settle(moved=True)
        trial.moves_on()


@pytest.mark.long
def test_the_broker_killed_at_the_switch_over(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=TCP)) as trial:
        source, broker = trial.source_host, trial.both.lab.broker
        _in_transfer(trial)
        broker.kill()
        source.unshape()
        trial.wait_left()
        trial.stays_held(5)
        broker.start()
        trial.settle(moved=True)
        trial.moves_on()


@pytest.mark.long
def test_the_source_loses_its_power_in_the_transfer(pair: Callable[..., Pair]) -> None:
    """The guest goes down with its host and stays its own; what has come to the destination never ran."""
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        _in_transfer(trial)
        _lose_power(trial)
        trial.source_host.unshape()
        _power_up(trial)
        trial.settle(moved=False, state="stopped")
        trial.never_ran_there()
        trial.start_again()


@pytest.mark.long
def test_the_source_loses_its_power_when_it_has_given_the_guest_away(pair: Callable[..., Pair]) -> None:
    """It alone knows that: the guest is held at the destination until it is told."""
    with on_trial(pair(shared=True, sections=TCP)) as trial:
        trial.arm(trial.source, "handshake.given.after=kill")
        trial.migrate()
        trial.source.wait_end(120)
        _lose_power(trial)
        trial.stays_held(5)
        _power_up(trial)
        trial.settle(moved=True)
        trial.moves_on()


def _lose_power(trial: Trial) -> None:
    """The source is off from one instant to the next: nobody there can tell anybody anything."""
    host, agent = trial.source_host, trial.source
    host.cut()
    host.hypervisor.kill()
    if trial.guest.uuid in host.hypervisor.qemu_pids():
        host.hypervisor.kill_guest(trial.guest.uuid)
    if agent.running:
        agent.kill()


def _power_up(trial: Trial) -> None:
    trial.source_host.mend()
    trial.source_host.hypervisor.start()
    trial.source.start()

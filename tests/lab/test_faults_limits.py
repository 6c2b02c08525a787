# SPDX-License-Identifier: Apache-2.0
"""Migrations that can't go well, or are not to: refused, out of room, too slow, aborted."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from tests.lab.conftest import Pair
from tests.lab.trial import BUSY, SLOW_MBIT, TCP, Trial, on_trial
from tests.rig.labhost import Host
from tests.rig.linuxguest import Program
from tests.rig.process import RigError, wait_until

pytestmark = [pytest.mark.timeout(1200)]

_FOREIGN = "11111111-2222-4333-8444-555555555555"
_MIB = 2**20
#: A wire on which a guest that is slowed down can be copied; one that is not only on a busy machine.
_NARROW_MBIT = 200.0


def test_a_name_that_is_taken_at_the_destination_is_refused(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        _take_name(trial)
        trial.migrate()
        end = trial.settle(moved=False, error="MigrationRefused")
        assert "name" in end["data"]["error"]["message"]


def _take_name(trial: Trial) -> None:
    """Define a foreign domain of the guest's name at the destination."""
    file = trial.both.lab.shared / "foreign.xml"
    told = trial.source_host.virsh("dumpxml", trial.guest.uuid, "--inactive")
    file.write_text(told.replace(trial.guest.uuid, _FOREIGN))
    trial.destination_host.virsh("define", str(file))


@pytest.mark.long
def test_the_name_is_taken_after_the_destination_has_promised(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        trial.arm(trial.source, "handshake.do.start_transfer=delay:5")
        trial.migrate()
        trial.wait_phase("moving")
        _take_name(trial)
        trial.settle(moved=False, error="MigrationFailed")
        trial.destination_host.virsh("undefine", _FOREIGN)
        trial.moves_on()


@pytest.mark.long
def test_the_destination_runs_out_of_memory(pair: Callable[..., Pair]) -> None:
    """Where that is seen beforehand it is refused; else QEMU gets none."""
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        trial.destination.configure({"host": {"reserved_memory_mb": 2**24}})
        trial.destination.restart()
        trial.migrate()
        end = trial.settle(moved=False, error="MigrationRefused")
        assert "memory" in end["data"]["error"]["message"]
        trial.destination.configure({"host": {"reserved_memory_mb": None}})
        trial.destination.restart()
        libvirtd = trial.destination_host.hypervisor.pid
        before = resource.prlimit(libvirtd, resource.RLIMIT_AS)
        try:
            resource.prlimit(libvirtd, resource.RLIMIT_AS, (_address_space(libvirtd) + 64 * _MIB, before[1]))
            trial.migrate()
            trial.settle(moved=False, error="MigrationFailed")
        finally:
            resource.prlimit(libvirtd, resource.RLIMIT_AS, before)
        trial.moves_on()


def _address_space(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@pytest.mark.long
def test_the_destination_runs_out_of_disk(pair: Callable[..., Pair]) -> None:
    """There was room when it was looked at; it is gone before all is copied."""
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        host, path = trial.destination_host, trial.both.instances_path
        host.tell("mount", "-t", "tmpfs", "-o", "size=256m", "none", str(path))
        try:
            trial.destination.restart()
            trial.arm(trial.source, "handshake.do.start_transfer=delay:5")
            trial.migrate()
            wait_until(lambda: _has(host, f"{path}/{trial.guest.uuid}/disk"), 90, "the disk", trial.evidence)
            host.tell("sh", "-c", f"dd if=/dev/zero of={path}/full bs=1M count=300 status=none; true")
            trial.settle(moved=False, error="MigrationFailed")
            assert not _has(host, f"{path}/{trial.guest.uuid}")
        finally:
            host.tell("umount", "-l", str(path))
        trial.destination.restart()
        trial.moves_on()


def _has(host: Host, path: str) -> bool:
    try:
        host.tell("test", "-e", path)
    except RigError:
        return False
    return True


# --- a guest that dirties its memory faster than the wire takes it --------------------------------------


@pytest.mark.long
def test_a_guest_that_is_too_busy_stays_when_the_time_is_over(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=TCP), program=BUSY) as trial:
        trial.source_host.shape(SLOW_MBIT)
        trial.migrate(timeout_s=30, policy={"on_timeout": "abort"})
        trial.settle(moved=False, error="Timeout")


@pytest.mark.long
def test_a_guest_that_is_too_busy_is_forced_when_the_time_is_over(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=TCP), program=BUSY) as trial:
        trial.source_host.shape(SLOW_MBIT)
        trial.migrate(timeout_s=30, policy={"on_timeout": "force"})
        trial.settle(moved=True)


@pytest.mark.long
def test_a_guest_that_is_too_busy_is_slowed_down_until_it_can_be_moved(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=TCP), program=Program(dirty_mib=64)) as trial:
        trial.source_host.shape(_NARROW_MBIT)
        trial.migrate(timeout_s=600, policy={"auto_converge": True})
        trial.settle(moved=True)


# --- aborted ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_aborted_at_any_time(pair: Callable[..., Pair]) -> None:
    """Until it is decided that the guest has gone, it stays; from then on an abort is too late."""
    with on_trial(pair(shared=False, sections=TCP), program=BUSY) as trial:
        trial.source_host.shape(SLOW_MBIT)
        trial.arm(trial.destination, "handshake.do.make_ready=delay:5")
        _aborted(trial, lambda: trial.wait_phase("asked"))
        trial.arm(trial.source, "handshake.do.start_transfer=delay:5")
        _aborted(trial, lambda: trial.wait_phase("moving"))
        _aborted(trial, trial.wait_copying)
        _aborted(trial, lambda: trial.wait_copying(2**25))
        trial.source_host.unshape()
        trial.arm(trial.source, "handshake.do.take=delay:5")
        trial.migrate()
        trial.wait_left()
        abort = trial.sender.cast("live_migration_abort", instance_uuid=trial.guest.uuid)
        assert trial.both.receiver.failed(abort, 120)["data"]["error"]["code"] == "TooLate"
        trial.settle(moved=True)


def _aborted(trial: Trial, wait: Callable[[], None]) -> None:
    """Begin a migration, wait, abort it: the guest stays."""
    trial.migrate(timeout_s=900)
    wait()
    abort = trial.sender.cast("live_migration_abort", instance_uuid=trial.guest.uuid)
    trial.both.receiver.succeeded(abort, 120)
    trial.settle(moved=False, error="Cancelled")

# SPDX-License-Identifier: Apache-2.0
"""The transport of disks between two ends, over QEMU's own programs, without libvirt."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.libvirt.coldmigration import processes, sending, transit
from tests.rig import scratch
from tests.rig import transferends as rig
from tests.rig.process import wait_until
from tests.rig.transferends import MIB, Ends

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both ends; nothing of them is left."""
    rig.configure()
    directory = scratch.make()
    made = Ends(directory)
    yield made
    failpoints.arm("")
    for option in ("cold_migration_chunk", "cold_migration_stall_timeout", "cold_migration_ports"):
        CONF.clear_override(option, "libvirt")
    made.close()
    assert made.programs() == []
    scratch.remove(directory)


def _identical(ends: Ends, *names: str) -> bool:
    return all(ends.same(name) for name in names)


def test_files_of_every_form_arrive_as_they_are(ends: Ends) -> None:
    ends.file("disk", 96 * MIB, (0, 3 * MIB), (40 * MIB + 4096, 5 * MIB), (96 * MIB - 512, 512))
    ends.file("disk.eph0", 64 * MIB)
    ends.file("odd", 196_616, (0, 196_616))
    ends.file("tiny", 5, (0, 5))
    ends.file("empty", 0)
    names = ["disk", "disk.eph0", "odd", "tiny", "empty"]
    ends.open()
    ends.send(*names)
    assert _identical(ends, *names)
    assert ends.part("disk").stat().st_blocks * 512 < 12 * MIB
    assert ends.part("disk.eph0").stat().st_blocks == 0
    assert ends.reported[-1][0] <= ends.reported[-1][1]
    ends.reported.clear()
    ends.send(*names)  # it is all there
    ends.close()
    assert ends.programs() == [] and not ends.outgoing.exists() and not ends.incoming.exists()


def test_the_secret_is_in_no_argument_and_for_nobody_else_to_read(ends: Ends) -> None:
    ends.file("disk", MIB, (0, MIB))
    secret = transit.new_secret()
    ends.open(secret)
    seen = [pathlib.Path(f"/proc/{number}/cmdline").read_bytes() for number in ends.programs()]
    seen += [pathlib.Path(f"/proc/{number}/environ").read_bytes() for number in ends.programs()]
    assert seen and not any(secret.encode() in one for one in seen)
    assert ends.incoming.stat().st_mode & 0o777 == 0o700
    assert (ends.incoming / "keys.psk").stat().st_mode & 0o777 == 0o600


def test_another_secret_is_refused(ends: Ends) -> None:
    ends.file("disk", MIB, (0, MIB))
    ends.open()
    transit.write_secret(str(ends.outgoing), transit.new_secret())
    with pytest.raises(errors.MigrationFailed, match="another secret"):
        ends.send("disk")
    assert not any(ends.part("disk").read_bytes())


def _source(ends: Ends, *names: str, chunk: int = 1, bandwidth: int = 0) -> subprocess.Popen[str]:
    """The source as a process, that can be killed."""
    text = "[" + ",".join(f'"{name}"' for name in names) + "]"
    argv = [
        sys.executable,
        "-m",
        rig.__name__,
        str(ends.scratch),
        str(ends.port),
        text,
        str(chunk),
        str(bandwidth),
    ]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def _sent(ends: Ends, name: str) -> int:
    noted = transit.read(str(ends.outgoing), sending.NOTE, sending.Progress)
    return noted.files[name].sent if noted and name in noted.files else 0


def test_a_killed_source_goes_on_where_it_was(ends: Ends) -> None:
    ends.file("disk", 24 * MIB, (0, 24 * MIB))
    ends.open()
    source = _source(ends, "disk", bandwidth=4)
    wait_until(lambda: _sent(ends, "disk") >= 3 * MIB, 60, "some of it was sent")
    source.kill()
    source.wait()
    wait_until(lambda: not processes.of(str(ends.outgoing)), 30, "no program is left at the source")
    noted = _sent(ends, "disk")
    assert 3 * MIB <= noted < 24 * MIB
    ends.send("disk")
    assert ends.reported[0][0] >= noted
    assert _identical(ends, "disk")


def test_a_killed_destination_is_unreachable_until_it_serves_again(ends: Ends) -> None:
    ends.file("disk", 24 * MIB, (0, 24 * MIB))
    ends.open()
    source = _source(ends, "disk", bandwidth=4)
    wait_until(lambda: _sent(ends, "disk") >= 3 * MIB, 60, "some of it was sent")
    os.kill(processes.of(str(ends.incoming))[0], signal.SIGKILL)
    said, _ = source.communicate(timeout=60)
    assert said.startswith("DestinationUnreachable")
    with pytest.raises(errors.DestinationUnreachable):
        ends.send("disk")
    before, ends.reported = ends.port, []
    ends.open()
    assert ends.port == before
    noted = _sent(ends, "disk")
    ends.send("disk")
    assert noted >= 3 * MIB and ends.reported[0][0] >= noted
    assert _identical(ends, "disk")


def test_files_made_anew_there_get_all_of_it_again(ends: Ends) -> None:
    ends.file("disk", 4 * MIB, (0, 4 * MIB))
    ends.open()
    ends.send("disk")
    with ends.part("disk").open("wb") as file:
        file.truncate(5 * MIB)
    ends.incarnation = "second"
    ends.send("disk")
    assert _identical(ends, "disk")


def test_a_file_that_was_written_to_since_is_sent_again(ends: Ends) -> None:
    path = ends.file("disk", 4 * MIB, (0, 4 * MIB))
    ends.open()
    ends.send("disk")
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(os.urandom(4096))
    ends.send("disk")
    assert _identical(ends, "disk")


def test_what_was_damaged_on_its_way_is_found_and_sent_again(ends: Ends) -> None:
    ends.file("disk", 8 * MIB, (0, 8 * MIB))
    ends.open()

    def damage(point: str) -> None:
        if point == "cold.pushed":
            with ends.part("disk").open("r+b") as file:
                file.seek(5 * MIB)
                file.write(b"damaged")

    failpoints.observe(damage)
    try:
        ends.send("disk")
    finally:
        failpoints.observe(None)
    assert _identical(ends, "disk")


def test_a_full_disk_there_is_told_as_that(ends: Ends, small: pathlib.Path) -> None:
    ends.file("disk", 24 * MIB, (0, 24 * MIB))
    ends.part("disk").unlink()
    with (small / "disk.part").open("wb") as file:
        file.truncate(25 * MIB)
    ends.there = small
    ends.open()
    with pytest.raises(errors.DiskFull) as failed:
        ends.send("disk")
    assert not failed.value.retryable


@pytest.fixture
def small() -> Iterator[pathlib.Path]:
    """A file system with little room."""
    directory = scratch.make()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)
    scratch.remove(directory)


def test_a_destination_that_hangs_is_given_up(ends: Ends) -> None:
    ends.file("disk", 8 * MIB, (0, 8 * MIB))
    ends.open()
    CONF.set_override("cold_migration_stall_timeout", 2, "libvirt")
    hung = processes.of(str(ends.incoming))[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        with pytest.raises(errors.ComputeError) as failed:
            ends.send("disk")
        assert isinstance(failed.value, errors.DestinationUnreachable | errors.MigrationFailed)
        assert processes.of(str(ends.outgoing)) == []
    finally:
        os.kill(hung, signal.SIGCONT)
    CONF.clear_override("cold_migration_stall_timeout", "libvirt")
    ends.send("disk")
    assert _identical(ends, "disk")


def test_a_slow_transfer_ends_with_the_operation_s_time(ends: Ends) -> None:
    ends.file("disk", 16 * MIB, (0, 16 * MIB))
    ends.open()
    with (
        steps.working(steps.Work(verb="migrate", deadline=time.monotonic() + 3)),
        pytest.raises(errors.Timeout),
    ):
        ends.send("disk", bandwidth=1)
    assert processes.of(str(ends.outgoing)) == []


def test_it_can_be_cancelled_while_the_other_end_hangs(ends: Ends) -> None:
    ends.file("disk", 8 * MIB, (0, 8 * MIB))
    ends.open()
    work = steps.Work(verb="migrate")
    hung = processes.of(str(ends.incoming))[0]

    def stop(point: str) -> None:
        if point == "cold.pushed":
            os.kill(hung, signal.SIGSTOP)
            concurrency.spawn(work.cancel)

    failpoints.observe(stop)
    try:
        with steps.working(work), pytest.raises(errors.Cancelled):
            ends.send("disk")
    finally:
        failpoints.observe(None)
        os.kill(hung, signal.SIGCONT)
    assert processes.of(str(ends.outgoing)) == []


def test_a_port_that_is_taken_is_passed_over(ends: Ends) -> None:
    with socket.socket() as taken:
        taken.bind((rig.ADDRESS, 0))
        port = taken.getsockname()[1]
        ends.file("disk", MIB, (0, MIB))
        CONF.set_override("cold_migration_ports", f"{port}-{port}", "libvirt")
        with pytest.raises(errors.InsufficientResources, match="no port is free"):
            ends.open()
        CONF.set_override("cold_migration_ports", f"{port}-{port + 9}", "libvirt")
        ends.open()
        assert ends.port != port
    ends.send("disk")
    assert _identical(ends, "disk")


def test_bandwidth_is_kept_to(ends: Ends) -> None:
    ends.file("disk", 3 * MIB, (0, 3 * MIB))
    ends.open()
    began = time.monotonic()
    ends.send("disk", bandwidth=2)
    assert time.monotonic() - began > 1.5  # 3 MiB there and back again, after a second's worth at once
    assert _identical(ends, "disk")

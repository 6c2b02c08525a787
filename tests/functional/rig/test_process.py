# SPDX-License-Identifier: Apache-2.0
"""Supervisor and reaper: nothing that was started outlives them."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.rig import reaper, scratch
from tests.rig.process import (
    RigError,
    RigTimeoutError,
    Supervisor,
    children_of,
    command_line,
    is_alive,
    wait_until,
)

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as started:
        yield started


def test_exit_status_and_output_are_kept(supervisor: Supervisor, tmp_path: pathlib.Path) -> None:
    process = supervisor.run(["sh", "-c", "echo said; exit 3"], log=tmp_path / "log")
    assert process.wait(5) == 3
    assert process.log_text() == "said\n"


def test_the_signal_that_ended_a_process_is_told(supervisor: Supervisor) -> None:
    assert supervisor.run(["sleep", "300"]).terminate(5) == -signal.SIGTERM
    assert supervisor.run(["sleep", "300"]).kill() == -signal.SIGKILL


def test_a_program_that_is_not_there_is_an_error_that_names_it(supervisor: Supervisor) -> None:
    with pytest.raises(RigError, match="/no/such/program"):
        supervisor.run(["/no/such/program"])


def test_an_orphan_comes_to_the_supervisor_and_ends_with_it() -> None:
    with Supervisor() as supervisor:
        assert supervisor.run(["sh", "-c", "sleep 301 & exit 0"]).wait(5) == 0
        (orphan,) = supervisor.children()
        wait_until(lambda: command_line(orphan) == ["sleep", "301"], 10, "the orphan's own program")
    assert not is_alive(orphan)


def test_a_dead_orphan_is_reaped_at_once(supervisor: Supervisor) -> None:
    supervisor.run(["sh", "-c", "sleep 302 & exit 0"]).wait(5)
    (orphan,) = supervisor.children()
    os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: not pathlib.Path(f"/proc/{orphan}").exists(), 1, "the reaping")


def test_everything_ends_and_the_directory_goes_when_the_test_process_is_killed() -> None:
    directory = scratch.make()
    program = (
        "import sys, pathlib; from tests.rig.process import Supervisor\n"
        f"supervisor = Supervisor(remove=pathlib.Path({str(directory)!r})).start()\n"
        "child = supervisor.run(['sleep', '303'])\n"
        "print(supervisor.pid, child.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
    ) as victim:
        assert victim.stdout is not None
        reaper_pid, child_pid = map(int, victim.stdout.readline().split())
        victim.kill()
    wait_until(lambda: not is_alive(reaper_pid) and not is_alive(child_pid), 10, "their end")
    wait_until(lambda: not directory.exists(), 10, "the end of the directory")


def test_the_reaper_as_a_command_ends_as_its_command_does() -> None:
    command = [sys.executable, "-m", "tests.rig.reaper"]
    assert subprocess.run([*command, "sh", "-c", "exit 7"], cwd=ROOT, timeout=20).returncode == 7
    assert subprocess.run([*command, "sh", "-c", "kill -9 $$"], cwd=ROOT, timeout=20).returncode == 128 + 9


def test_the_reaper_as_a_command_forwards_sigterm_and_takes_orphans_along() -> None:
    script = "trap 'exit 5' TERM; sleep 304 & while :; do sleep 0.05; done"
    with subprocess.Popen([sys.executable, "-I", "-S", reaper.__file__, "sh", "-c", script]) as started:
        (shell,) = wait_until(lambda: children_of(started.pid), 10, "the shell")
        sleeper = wait_until(
            lambda: next((pid for pid in children_of(shell) if command_line(pid) == ["sleep", "304"]), None),
            10,
            "the shell's child",
        )
        started.terminate()
        assert started.wait(10) == 5
    assert not is_alive(sleeper)


def test_waiting_for_what_does_not_come_ends_at_its_deadline_with_the_evidence() -> None:
    began = time.monotonic()
    with pytest.raises(RigTimeoutError, match=r"(?s)the moon did not come about.*what was seen"):
        wait_until(lambda: None, 0.2, "the moon", lambda: "what was seen")
    assert time.monotonic() - began < 10

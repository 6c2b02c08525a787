# SPDX-License-Identifier: Apache-2.0
"""`make demo`, run as a person does: what it shows, how it ends, and that nothing of it is left."""

from __future__ import annotations

import io
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.rig import scratch
from tests.rig.demo import GREETING
from tests.rig.demo_screen import Screen, Style

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMMAND = [sys.executable, "-m", "tests.rig.demo"]
_DEADLINE_S = 120


class Demo:
    """A run of the demonstration below a scratch directory of its own, read line by line."""

    def __init__(self, directory: pathlib.Path, arguments: Sequence[str] = ()) -> None:
        self._directory = directory
        self.said = ""
        self.process = subprocess.Popen(
            [*_COMMAND, *arguments],
            cwd=_ROOT,
            env=os.environ | {"RIG_SCRATCH": str(directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def read_until(self, text: str) -> None:
        """Read until a line holds `text`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return
        raise AssertionError(f"it ended before it said {text!r}:\n{self.said}")

    def end(self) -> int:
        """Read the rest; the exit status."""
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        return self.process.wait(_DEADLINE_S)

    def stop_reading(self) -> None:
        """Close this end of the pipe that it writes to."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    def close(self) -> None:
        """Let go of it, and wait for its end."""
        self.stop_reading()
        self.process.wait(_DEADLINE_S)

    def left(self) -> list[str]:
        """Files below its directory, and processes that have to do with it."""
        files = [str(path) for path in self._directory.iterdir()]
        return files + [f"{pid} {command}" for pid, command in _processes(str(self._directory))]


def _processes(directory: str) -> Iterator[tuple[int, str]]:
    """Those that name the directory: as an argument, in the environment, or as where they are."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                about = [command, (entry / "environ").read_bytes(), os.readlink(entry / "cwd").encode()]
            except OSError:
                continue
            if any(directory.encode() in text for text in about):
                yield int(entry.name), command.replace(b"\0", b" ").decode(errors="replace")


@pytest.fixture
def directory() -> Iterator[pathlib.Path]:
    path = scratch.make("ca-d-")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def demo(directory: pathlib.Path) -> Iterator[Any]:
    runs: list[Demo] = []

    def start(*arguments: str) -> Demo:
        runs.append(Demo(directory, arguments))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
        run.close()


def _events(said: str) -> list[str]:
    return re.findall(r"^ +\d\d:\d\d:\d\d\.\d{3} +event +(\S+)", said, re.MULTILINE)


def test_once_shows_the_whole_way_and_ends_by_itself(demo: Any) -> None:
    run = demo("--once")
    assert run.end() == 0, run.said
    events = [kind for kind in _events(run.said) if kind != "host.report"]
    spawned, destroyed = (at for at, kind in enumerate(events) if kind == "operation.succeeded")
    assert events.index("operation.accepted") < events.index("instance.lifecycle.started") < spawned
    assert spawned < events.index("instance.lifecycle.stopped") < destroyed
    assert re.search(rf"^ +\S+ +console +hello +{re.escape(GREETING)}$", run.said, re.MULTILINE)
    assert "All went well" in run.said
    assert "\033" not in run.said
    assert run.left() == []


def test_what_it_says_to_type_works_and_is_seen(demo: Any) -> None:
    run = demo()
    run.read_until("Ctrl-C ends everything")
    told = {command: _typed(command) for command in _commands(run.said)}
    assert any("list-instances" in command and "hello" in said for command, said in told.items())
    assert any("get-console-output" in command and GREETING in said for command, said in told.items())
    assert any(command.startswith("virsh") for command in told)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0, run.said
    lifecycle = [kind.rpartition(".")[2] for kind in _events(run.said) if ".lifecycle." in kind]
    assert lifecycle == ["started", "paused", "resumed", "stopped", "started", "stopped"]
    assert run.said.count(GREETING) == 2
    assert run.left() == []


def _commands(said: str) -> list[str]:
    """What it says to type, in order."""
    return re.findall(
        r"^  (\S*compute-agentctl .*|\S+ -m compute_agent\.cmd\.ctl .*|virsh .*)$", said, re.MULTILINE
    )


def _typed(command: str) -> str:
    """Type it in a second terminal; what it says. It has to succeed."""
    told = subprocess.run(
        command, shell=True, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 0, f"{command}\n{told.stdout}{told.stderr}"
    return told.stdout


def test_impatience_leaves_nothing_behind(demo: Any) -> None:
    run = demo()
    run.read_until("Ctrl-C ends everything")
    run.process.send_signal(signal.SIGINT)
    run.read_until("Ending")
    for _ in range(3):
        run.process.send_signal(signal.SIGINT)
    assert run.end() == 0, run.said
    assert run.left() == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "RabbitMQ"), (signal.SIGHUP, "Casting")],
    ids=["SIGTERM-while-it-starts", "SIGHUP-while-it-spawns"],
)
def test_a_signal_ends_it_at_any_time_and_nothing_is_left(
    demo: Any, number: signal.Signals, moment: str
) -> None:
    run = demo("--once")
    run.read_until(moment)
    run.process.send_signal(number)
    assert run.end() == 128 + number, run.said
    assert run.left() == []


def test_nobody_reading_any_more_is_no_error_and_ends_it(demo: Any) -> None:
    run = demo()
    run.read_until("Casting")
    run.stop_reading()
    assert run.process.wait(_DEADLINE_S) == 0
    assert run.left() == []


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Screen(io.StringIO()).styled("text", Style.RED) == "text"
    ends = pty.openpty()
    with os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "w") as terminal:
        assert Screen(terminal).styled("text", Style.RED) == "\033[31mtext\033[0m"
        monkeypatch.setenv("NO_COLOR", "1")
        assert Screen(terminal).styled("text", Style.RED) == "text"

# SPDX-License-Identifier: Apache-2.0
"""The commands as a person types them: processes of their own, with an agent that serves real guests."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rig.process import tail, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, read as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error that it told in JSON: the last line of its standard error."""
        return json.loads(tail(self.err, 1))


def environment(**more: str) -> dict[str, str]:
    """Nothing of the tester's own settings; the project to be found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMPUTE_AGENT_")}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def run(module: str, *arguments: str | pathlib.Path, cwd: pathlib.Path | None = None, **more: str) -> Done:
    """Run a command of the project to its end."""
    command = [sys.executable, "-m", f"compute_agent.cmd.{module}", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment(**more),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


class Ctl:
    """A person at a terminal.

    always: what is typed first each time; settings: what the environment tells.
    """

    def __init__(self, *always: str, **settings: str) -> None:
        self._always = always
        self._settings = settings

    def __call__(self, *arguments: str) -> Done:
        return run("ctl", *self._always, *arguments, **self._settings)

    def json(self, *arguments: str) -> Any:
        """What it answers as JSON; it has to succeed."""
        done = self("--format", "json", *arguments)
        assert done.status == 0, done
        return done.json


class Running:
    """A command that goes on until it is interrupted, as by Ctrl-C."""

    def __init__(self, directory: pathlib.Path, *arguments: str) -> None:
        self._out, self._err = directory / "out", directory / "err"
        command = [sys.executable, "-m", "compute_agent.cmd.ctl", *arguments]
        with self._out.open("w") as out, self._err.open("w") as err:
            self._popen = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment()
            )

    @property
    def out(self) -> str:
        """What it printed so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it remarked so far."""
        return self._err.read_text()

    def wait_for(self, text: str) -> str:
        """Wait until it has printed or remarked `text`; all that it printed."""
        wait_until(
            lambda: text in self.out + self.err, 30, f"{text!r} of the command", lambda: self.out + self.err
        )
        return self.out

    def end(self, number: int = signal.SIGINT) -> int:
        """Interrupt it; its exit status."""
        self._popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return self._popen.wait(DEADLINE_S)

    def close(self) -> None:
        """End it if it still runs."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait(DEADLINE_S)


@pytest.fixture
def running(tmp_path: pathlib.Path) -> Iterator[Callable[..., Running]]:
    """Start `compute-agentctl` with arguments, and go on; it is ended with the test."""
    made: list[Running] = []

    def start(*arguments: str) -> Running:
        directory = tmp_path / f"ctl-{len(made)}"
        directory.mkdir()
        made.append(Running(directory, *arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()

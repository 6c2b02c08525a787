# SPDX-License-Identifier: Apache-2.0
"""Agents that start in a moment and whose failpoints are armed while they run."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from tests.rig import scratch
from tests.rig.agent import Agent, Sections
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.part import Part
from tests.rig.process import Process, RigError, Supervisor, wait_until

_ROOT = pathlib.Path(__file__).resolve().parents[2]
IDLE_S = 0.15
"""Without a point for so long, an agent is idle: it notes what was sent after 0.1 s."""
LAST_POINTS_S = 0.5
PAUSE_S = 0.02
_NUMBER = re.compile(r":\[\d+\]")


class Zygote(Part):
    """Forks agents; they end with it.

    modules: what is imported before, beside the agent itself.
    """

    def __init__(self, *modules: str) -> None:
        self.scratch = scratch.make("ca-z-")
        self._modules = modules
        self.path = self.scratch / "zygote"
        self._supervisor = Supervisor(remove=None if scratch.keep() else self.scratch)

    def start(self) -> Self:
        """Start it and wait until it listens."""
        command = [sys.executable, "-W", "ignore", "-m", "tests.chaos.zygote", str(self.path), *self._modules]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        log = self.scratch / "log"
        process = self._supervisor.start().run(command, env=environment, cwd=_ROOT, log=log)
        wait_until(lambda: self.path.exists() or not process.running, 60, "the zygote", process.log_text)
        if not process.running:
            raise RigError(f"the zygote ended\n{process.log_text()}")
        return self

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: pathlib.Path,
        log: pathlib.Path,
    ) -> Process:
        """Start an agent, as a `Supervisor` would; only its arguments are looked at."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        request = {"arguments": list(argv[1:]), "env": dict(env), "cwd": str(cwd), "log": str(log)}
        request["control"] = str(cwd / "control")
        connection.sendall(json.dumps(request).encode() + b"\n")
        lines = connection.makefile()
        process = Process(int(lines.readline()), argv, log)

        def wait() -> None:
            status = lines.readline()
            process.ended(int(status) if status else -9)
            connection.close()

        threading.Thread(target=wait, daemon=True).start()
        return process

    def close(self) -> None:
        """End it and all agents."""
        self._supervisor.stop()
        scratch.remove(self.scratch)

    def evidence(self) -> str:
        """Its log."""
        path = self.scratch / "log"
        return path.read_text() if path.exists() else ""


class ForkedAgent(Agent):
    """An agent of a zygote. Arguments are those of an Agent."""

    def __init__(
        self,
        zygote: Zygote,
        broker: Broker,
        hypervisor: Hypervisor | None = None,
        sections: Sections | None = None,
    ) -> None:
        self._zygote = zygote
        super().__init__(broker, hypervisor, command=["compute-agent"], sections=sections)
        # A report now and then would be a point that nobody asked for.
        self.configure({"DEFAULT": {"report_interval": 3600}})

    def _host(self) -> Any:
        return self._zygote

    def ask(self, **request: Any) -> list[str]:
        """Send a request to its control socket; return the points that were passed since the last one."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.scratch / "control"))
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = connection.makefile().readline()
        points: list[str] = json.loads(answer)
        return points

    def arm(self, text: str) -> None:
        """Arm points; what was passed before is forgotten."""
        self.ask(arm=text)

    def disarm(self) -> list[str]:
        """Disarm all points; return what was passed since it was asked last, nothing if it has ended."""
        try:
            return self.ask(arm="")
        except (OSError, ValueError):
            self.wait_end()
            return []

    def settle(self, timeout: float = 30.0) -> list[str]:
        """Wait until it is idle; return the points that were passed since it was asked last."""
        passed: list[str] = []
        deadline = time.monotonic() + timeout
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < IDLE_S:
            if fresh := self.ask():
                passed += fresh
                quiet_since = time.monotonic()
            if time.monotonic() > deadline:
                raise RigError(f"the agent of {self.host} does not come to rest: {passed[-5:]}")
            time.sleep(PAUSE_S)
        return passed

    def passes(self, point: str, nth: int, timeout: float, over: Callable[[], bool]) -> list[str]:
        """Wait until a point was passed for the nth time since it was armed, or the agent has ended.

        :param over: whether no further points are to be expected; the last may be under way even then
        :return: all that were passed, as far as they could be asked for
        """
        passed: list[str] = []
        now = quiet_since = time.monotonic()
        ends = now + timeout
        while self.running and passed.count(point) < nth and now < ends:
            if now > quiet_since + LAST_POINTS_S and over():
                break
            with contextlib.suppress(OSError, ValueError):
                fresh = self.ask()
                passed += fresh
                quiet_since = time.monotonic() if fresh else quiet_since
            time.sleep(PAUSE_S)
            now = time.monotonic()
        return passed

    def kinds_of_files(self) -> Counter[str]:
        """What its file descriptors point at, by kind; files by their path."""
        return Counter(_NUMBER.sub("", name) for name in self.open_files())

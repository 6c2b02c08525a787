# SPDX-License-Identifier: Apache-2.0
"""The drivers of two hosts, played against each other by a test; each call is a process on its host."""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
from typing import Any

from tests.lab import driving
from tests.rig.agent import Agent
from tests.rig.labguest import LabGuest
from tests.rig.labhost import Host
from tests.rig.process import Process, RigError, read_text

_numbers = itertools.count(1)


class DriverError(Exception):
    """What a member raised: the error's class by name, and its text."""

    def __init__(self, name: str, message: str, evidence: str | None) -> None:
        super().__init__(f"{name}: {message}\n{evidence or ''}")
        self.name = name


class Driver:
    """The driver of a host, with the configuration of its agent, for one guest."""

    def __init__(self, host: Host, agent: Agent, guest: LabGuest) -> None:
        self.host = host
        self.agent = agent
        self.guest = guest

    def begin(self, member: str, **request: Any) -> Process:
        """Call a member; its process."""
        name = f"driving-{next(_numbers)}"
        file = self.agent.scratch / f"{name}.json"
        asked = {"member": member, "host": self.agent.host, "instance": self.guest.instance, **request}
        file.write_text(json.dumps(asked))
        argv = [sys.executable, driving.__file__, str(self.agent.config_file), str(file)]
        return self.host.run(argv, log=self.agent.scratch / f"{name}.log")

    def end(self, process: Process, timeout: float = 120.0) -> Any:
        """Wait for a call; its result. Raises DriverError with what it raised."""
        process.wait(timeout)
        said = read_text(pathlib.Path(str(process.log)))
        answers = [line for line in said.splitlines() if line.startswith(driving.ANSWER)]
        if not answers:
            raise RigError(f"the driver of {self.host.name} did not answer ({process.returncode})\n{said}")
        answer = json.loads(answers[-1].removeprefix(driving.ANSWER))
        if "error" in answer:
            raise DriverError(answer["error"], answer["message"], answer["evidence"])
        return answer["result"]

    def call(self, member: str, **request: Any) -> Any:
        """Call a member and wait for its result."""
        return self.end(self.begin(member, **request))

    def fact(self, *, incoming: bool) -> str:
        """What the hypervisor shows of the guest."""
        found: str = self.call("fact", incoming=incoming)
        return found


def prepare(source: Driver, destination: Driver, block_migration: bool | None = None) -> dict[str, Any]:
    """All up to the transfer, as two agents do it; what both ends agreed on."""
    resources = source.call("resources")
    data = destination.call("check_destination", resources=resources, block_migration=block_migration)
    try:
        data = source.call("check_source", data=data)
    finally:
        destination.call("cleanup_destination_check", data=data)
    prepared: dict[str, Any] = destination.call("prepare", data=data)
    return prepared

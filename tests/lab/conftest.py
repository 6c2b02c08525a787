# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the lab tests: two hosts for all tests of a session, with agents and guests for one test."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rig.agent import Agent
from tests.rig.lab import Lab
from tests.rig.labguest import LabGuest
from tests.rig.labhost import Host
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender


@pytest.fixture(scope="session")
def session_lab(rig: Callable[[Lab], Lab]) -> Lab:
    """Two hosts on a switch, and a broker; whole again before each test."""
    return rig(Lab())


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """The session's lab; what the test leaves on it is gone after the test."""
    yield session_lab
    session_lab.ensure()
    session_lab.clear()


@dataclasses.dataclass
class Pair:
    """Both hosts with an agent each, and who talks to them from outside."""

    lab: Lab
    agents: list[Agent]
    receiver: Receiver
    senders: list[Sender]

    @property
    def hosts(self) -> list[Host]:
        return self.lab.hosts

    @property
    def instances_path(self) -> pathlib.Path:
        return self.agents[0].instances_path_inside

    def spawn(self, at: int = 0, **options: Any) -> LabGuest:
        """A Linux guest on one of the hosts, by its agent; it is up."""
        guest = LabGuest(self.lab, self.instances_path, **options)
        self.receiver.succeeded(self.senders[at].cast("spawn", instance=guest.instance), 90)
        guest.wait_up()
        return guest


@pytest.fixture
def pair(lab: Lab) -> Iterator[Callable[..., Pair]]:
    """Make a `Pair`: `pair(shared=True)` with the instances on shared storage, or each host with its own."""
    made: list[Pair] = []

    def make(**options: Any) -> Pair:
        receiver = Receiver(lab.transport_url).start()
        agents = lab.agents(**options)
        senders = [Sender(lab.transport_url, agent.host) for agent in agents]
        made.append(Pair(lab, agents, receiver, senders))
        return made[-1]

    yield make
    for one in made:
        for sender in one.senders:
            sender.close()
        one.receiver.close()

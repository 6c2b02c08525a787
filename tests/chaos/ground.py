# SPDX-License-Identifier: Apache-2.0
"""What a matrix runs on: a driver's agents, its guests, and a witness of what happens to them."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tests.chaos.agents import ForkedAgent, Zygote
from tests.chaos.scenarios import Scenario
from tests.rig.broker import Broker

HOST = "host"
"""In place of a guest's uuid: what happened to the host as a whole."""


class World(Protocol):
    """Sees what happens to guests, without the agent's help; it is as it was at the last :meth:`read`."""

    effects: Mapping[str, Sequence[str]]
    """What has happened to each guest (or `HOST`) so far, by uuid, in order, in words of its own. What
    changes nothing is no effect. It has to answer for uuids that it never saw."""

    def read(self) -> None:
        """Look again."""

    def guests(self) -> set[str]:
        """Return the uuids of all of which something is there."""

    def left_of(self, uuid: str) -> list[str]:
        """Return which parts of a guest are there (domain, disks, taps, ...): empty when nothing is."""

    def state_of(self, uuid: str) -> str | None:
        """Return how a guest is, in the words of a record's settled states; None if there is none."""


class Ground(contextlib.AbstractContextManager["Ground"], abc.ABC):
    """A driver under test; what it needs beside agents is closed with it.

    :cvar name: for the table
    :cvar modules: what the zygote imports before it forks, beside the agent
    :cvar scenarios: the verbs, by name
    :cvar usual: verbs that are run when none is named; empty: all
    :cvar shared: verbs for which the points of journal, acknowledgement and publishing are hit too
    :cvar deadline_s: of an operation that is to hang
    :cvar enough_s: of any other, and how long its end may take to come
    :cvar of_threads: what an agent has open for its native threads, and how many of it at most: they start
        when they are needed, and stay
    """

    name: str
    modules: tuple[str, ...] = ()
    scenarios: Mapping[str, Scenario]
    usual: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    deadline_s: float = 0.5
    enough_s: float = 60.0
    of_threads: Mapping[str, int] = {}

    def __init__(self, zygote: Zygote, broker: Broker) -> None:
        self.zygote = zygote
        self.broker = broker

    def __exit__(self, *_exc: object) -> None:
        """Give back what all of its agents shared."""

    @abc.abstractmethod
    def agent(self) -> ForkedAgent:
        """Make an agent, not started yet; many cases run on it."""

    @abc.abstractmethod
    def world(self, agent: ForkedAgent) -> World:
        """Return the witness of an agent's guests. Called before the agent is started."""

    @abc.abstractmethod
    def guest(self, number: int = 1) -> dict[str, Any]:
        """Return the instance of a new guest. The bystander has a number of its own."""

    def close(self, world: World) -> None:
        """Give back what a world holds, after its agent was closed."""

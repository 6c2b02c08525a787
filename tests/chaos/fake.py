# SPDX-License-Identifier: Apache-2.0
"""The fake driver as a ground: its guests are in a ledger, which outlives the agent."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

from tests.chaos.agents import ForkedAgent
from tests.chaos.ground import HOST, Ground
from tests.chaos.scenarios import SCENARIOS, SHARED, guest

OFF = 4
UP_AND_DOWN = {1: "active", 3: "paused", OFF: "stopped", 7: "suspended"}


class LedgerWorld:
    """The guests of a ledger, and which effects came to them; a :class:`~tests.chaos.ground.World`."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._read_to = 0
        self._guests: dict[str, dict[str, Any]] = {}
        self.effects: collections.defaultdict[str, list[str]] = collections.defaultdict(list)

    def read(self) -> None:
        """Read on."""
        text = self._path.read_bytes()
        whole = text.rfind(b"\n") + 1
        for line in text[self._read_to : whole].splitlines():
            self._happen(json.loads(line))
        self._read_to = whole

    def _happen(self, line: dict[str, Any]) -> None:
        uuid = line.get("guest") or HOST
        found = self._guests.setdefault(uuid, {})
        if line.get("power") == "shutdown":  # written by a test, not by the agent
            found["domain"]["power"] = OFF
        before = json.dumps(found, sort_keys=True)
        for part, value in line.get("set", {}).items():
            if value is None:
                found.pop(part, None)
            elif part == "domain":
                found[part] = found.get(part, {}) | value
            else:
                found[part] = value
        if json.dumps(found, sort_keys=True) != before:
            self.effects[uuid].append(line["effect"])

    def guests(self) -> set[str]:
        """Return the uuids of all of which something is there."""
        return {uuid for uuid in self._guests if uuid != HOST and self.left_of(uuid)}

    def left_of(self, uuid: str) -> list[str]:
        """Return which parts of a guest are there."""
        return sorted(part for part, value in self._guests.get(uuid, {}).items() if value)

    def state_of(self, uuid: str) -> str | None:
        """Return how a guest is; None if there is none."""
        domain = self._guests.get(uuid, {}).get("domain")
        return UP_AND_DOWN.get(domain.get("power", OFF), "other") if domain else None


class FakeGround(Ground):
    """The fake driver over a ledger."""

    name = "fake"
    scenarios = SCENARIOS
    shared = SHARED
    of_threads: ClassVar[Mapping[str, int]] = {"anon_inode:[eventpoll]": 5}

    def agent(self) -> ForkedAgent:
        """Make an agent with a ledger of its own."""
        made = ForkedAgent(self.zygote, self.broker)
        made.configure({"fake": {"ledger": made.scratch / "ledger"}, "host": {"allow_power_actions": True}})
        return made

    def world(self, agent: ForkedAgent) -> LedgerWorld:
        """Return what its ledger tells."""
        return LedgerWorld(agent.scratch / "ledger")

    def guest(self, number: int = 1) -> dict[str, Any]:
        """Return a guest with one of everything, so that every step of its spawn has something to do."""
        return guest(number)

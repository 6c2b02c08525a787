# SPDX-License-Identifier: Apache-2.0
"""Two agents with fake hosts that guests can be moved between, and the truth about where they ran.

Each fake host outlives its agent in a ledger. Both ledgers together, in the order of the machine's clock,
tell where a guest ran at any instant.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compute_agent.model.states import PowerState
from compute_agent.virt.fake.world import Domain, World, decoded
from tests.rig import instance
from tests.rig.agent import Agent
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import RemoteError, Sender

END_S = 60.0


class Pair:
    """Agents on two fake hosts.

    :param agent: makes an agent, not started
    :param sender: makes a sender to one
    """

    def __init__(
        self,
        path: pathlib.Path,
        agent: Callable[..., Agent],
        sender: Callable[[Agent], Sender],
        receiver: Receiver,
        **fake: object,
    ) -> None:
        self.path = path
        self.receiver = receiver
        sections = {"fake": {"hosts_path": path, "poll_interval": 0.05, **fake}}
        self.agents = [agent(start=False, sections=sections) for _ in range(2)]
        self.senders = [sender(one) for one in self.agents]

    def start(self) -> None:
        """Start both."""
        for agent in self.agents:
            agent.start()

    def arm(self, side: int, failpoints: str) -> None:
        """Start an agent anew, with `failpoints` for this one run of it."""
        agent = self.agents[side]
        agent.kill()
        agent.environment["COMPUTE_AGENT_FAILPOINTS"] = failpoints
        agent.start()
        del agent.environment["COMPUTE_AGENT_FAILPOINTS"]

    def spawn(self) -> str:
        """A running guest at the source."""
        made = instance.describe(image=pathlib.Path("/images/a.qcow2"))
        self.receiver.succeeded(self.senders[0].cast("spawn", instance=made))
        return str(made["uuid"])

    def migrate(self, uuid: str, side: int = 0, **more: object) -> str:
        """Ask the agent of a side to migrate a guest to the other; the operation's id."""
        asked: dict[str, Any] = {"dest": self.agents[1 - side].host, "mode": "live", **more}
        return self.senders[side].cast("migrate", instance_uuid=uuid, **asked)

    def handshake(self, side: int, uuid: str) -> dict[str, Any]:
        """What an end that has the instance on record tells of its last handshake; no `phase` before one."""
        told = self.senders[side].call("get_migration_status", instance_uuid=uuid)["handshake"]
        return dict(told or {"phase": None, "settled": False})

    def state(self, side: int, uuid: str) -> str:
        """The state in which the instance is on record at a side."""
        return str(self.senders[side].call("get_instance", instance_uuid=uuid)["state"])

    # --- the truth -------------------------------------------------------------------------------------

    def worlds(self) -> tuple[World, World]:
        """What there is at both hosts."""
        worlds = (World(), World())
        for side, line in self._lines():
            worlds[side].apply(line["guest"], decoded(line["set"]))
        return worlds

    def _lines(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        lines = [
            (side, json.loads(text))
            for side, agent in enumerate(self.agents)
            for text in self._text(agent).splitlines()
        ]
        return iter(sorted(lines, key=lambda one: int(one[1]["at"])))

    def _text(self, agent: Agent) -> str:
        ledger = self.path / f"{agent.host}.ledger"
        return ledger.read_text() if ledger.exists() else ""

    def assert_never_two(self, uuid: str) -> None:
        """At no instant did the guest run at both hosts."""
        worlds = (World(), World())
        for side, line in self._lines():
            worlds[side].apply(line["guest"], decoded(line["set"]))
            both = [_runs(world.domains.get(uuid)) for world in worlds]
            assert both != [True, True], line

    def side_of(self, uuid: str) -> int:
        """At which host the guest runs, once nothing of it is at the other."""

        def settled() -> bool:
            here, there = self.worlds()
            running = [_runs(world.domains.get(uuid)) for world in (here, there)]
            things = [uuid in world.domains or uuid in world.directories for world in (here, there)]
            return running == things and running.count(True) == 1

        wait_until(settled, END_S, "the guest to be at one host only", self.evidence)
        here, _there = self.worlds()
        return 0 if uuid in here.domains else 1

    def owner(self, uuid: str) -> int:
        """The host that has the instance on record, once it is one."""

        def owners() -> list[int]:
            return [side for side, sender in enumerate(self.senders) if self._has(sender, uuid)]

        wait_until(lambda: len(owners()) == 1, END_S, "one host to have it on record", self.evidence)
        return owners()[0]

    def _has(self, sender: Sender, uuid: str) -> bool:
        try:
            sender.call("get_instance", instance_uuid=uuid)
        except RemoteError as error:
            if error.code not in ("InstanceNotFound", "WrongHost"):
                raise
            return False
        return True

    def evidence(self) -> str:
        return "\n".join(f"{side} {json.dumps(line)}" for side, line in self._lines())


def _runs(domain: Domain | None) -> bool:
    return domain is not None and domain.power is PowerState.RUNNING

# SPDX-License-Identifier: Apache-2.0
"""Two agents (or more) with fake hosts that guests can be moved between, and the truth about where they ran.

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
    :param hosts: how many
    """

    def __init__(
        self,
        path: pathlib.Path,
        agent: Callable[..., Agent],
        sender: Callable[[Agent], Sender],
        receiver: Receiver,
        hosts: int = 2,
        **fake: object,
    ) -> None:
        self.path = path
        self.receiver = receiver
        sections = {"fake": {"hosts_path": path, "poll_interval": 0.05, **fake}}
        self.agents = [agent(start=False, sections=sections) for _ in range(hosts)]
        self.senders = [sender(one) for one in self.agents]

    def start(self) -> None:
        """Start all."""
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

    def resize(self, uuid: str, side: int = 0, **more: object) -> str:
        """Ask the agent of a side to migrate a guest cold to the other, with more memory."""
        flavor = {"vcpus": 2, "memory_mb": 32, "root_gb": 1}
        return self.migrate(uuid, side, **{"mode": "cold", "flavor": flavor, **more})

    def write(self, side: int, uuid: str, text: str) -> None:
        """The guest writes to its disk."""
        line = {"guest": uuid, "disk": "disk", "content": text}
        with (self.path / f"{self.agents[side].host}.ledger").open("a") as ledger:
            ledger.write(json.dumps(line) + "\n")
        wait_until(
            lambda: self.content(side, uuid) == text, END_S, "the guest to have written", self.evidence
        )

    def content(self, side: int, uuid: str) -> str:
        """What the guest has on its disk at a host."""
        return self.worlds()[side].directories[uuid].disks["disk"].content

    def handshake(self, side: int, uuid: str) -> dict[str, Any]:
        """What an end that has the instance on record tells of its last handshake; no `phase` before one."""
        told = self.senders[side].call("get_migration_status", instance_uuid=uuid)["handshake"]
        return dict(told or {"phase": None, "settled": False})

    def state(self, side: int, uuid: str) -> str:
        """The state in which the instance is on record at a side."""
        return str(self.senders[side].call("get_instance", instance_uuid=uuid)["state"])

    # --- the truth -------------------------------------------------------------------------------------

    def worlds(self) -> list[World]:
        """What there is at each host."""
        worlds = [World() for _ in self.agents]
        for side, line in self._lines():
            worlds[side].apply(line["guest"], decoded(line["set"]))
        return worlds

    def _lines(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        lines = [
            (side, json.loads(text))
            for side, agent in enumerate(self.agents)
            for text in self._text(agent).splitlines()
        ]
        known = [(side, line) for side, line in lines if "set" in line]
        return iter(sorted(known, key=lambda one: int(one[1]["at"])))

    def _text(self, agent: Agent) -> str:
        ledger = self.path / f"{agent.host}.ledger"
        return ledger.read_text() if ledger.exists() else ""

    def at_home(self, uuid: str) -> int:
        """The host that has the guest, be it off, once that is one; the other may have a copy set aside."""

        def homes() -> list[int]:
            return [side for side, world in enumerate(self.worlds()) if uuid in world.domains]

        wait_until(lambda: len(homes()) == 1, END_S, "the guest to be at one host", self.evidence)
        return homes()[0]

    def is_aside(self, side: int, uuid: str) -> bool:
        """Whether a host has a copy set aside, to which the guest may go back."""
        files = self.worlds()[side].directories.get(uuid)
        return files is not None and files.aside is not None

    def await_nothing(self, side: int, uuid: str) -> None:
        """Wait until a host has nothing of a guest, aside or otherwise."""

        def clean() -> bool:
            world = self.worlds()[side]
            return not any(uuid in part for part in (world.domains, world.directories, world.plugged))

        wait_until(clean, END_S, f"nothing to be at host {side}", self.evidence)

    def assert_never_two(self, uuid: str) -> None:
        """At no instant did the guest run at two hosts."""
        worlds = [World() for _ in self.agents]
        for side, line in self._lines():
            worlds[side].apply(line["guest"], decoded(line["set"]))
            assert sum(_runs(world.domains.get(uuid)) for world in worlds) <= 1, line

    def side_of(self, uuid: str) -> int:
        """At which host the guest runs, once nothing of it is at another."""

        def settled() -> bool:
            worlds = self.worlds()
            running = [_runs(world.domains.get(uuid)) for world in worlds]
            things = [uuid in world.domains or uuid in world.directories for world in worlds]
            return running == things and running.count(True) == 1

        wait_until(settled, END_S, "the guest to be at one host only", self.evidence)
        return next(side for side, world in enumerate(self.worlds()) if uuid in world.domains)

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

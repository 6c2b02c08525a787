# SPDX-License-Identifier: Apache-2.0
"""An agent that serves a whole module of tests, and an onlooker's view of what it leaves behind.

Tests that share an agent make instances of their own and judge those alone; what they leave at the
hypervisor is removed when the module ends.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import uuid as uuids
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import PARTS
from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE
from tests.rig.broker import Broker
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.process import command_line
from tests.rig.receiver import Payload, Receiver
from tests.rig.sender import Sender

LIFECYCLE = "instance.lifecycle."


class Served:
    """An agent with real guests, and who talks to it."""

    def __init__(self, agent: Agent, sender: Sender, receiver: Receiver, hypervisor: Hypervisor) -> None:
        self.agent = agent
        self.sender = sender
        self.receiver = receiver
        self.hypervisor = hypervisor
        self.image = hypervisor.images.qcow2(f"served-{uuids.uuid4().hex[:8]}", POLITE)

    def do(self, verb: str, **arguments: Any) -> Payload:
        """Cast a verb; the event of its success."""
        return self.receiver.succeeded(self.sender.cast(verb, **arguments), timeout=60)

    def fail(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Cast a verb; the error that it ends with."""
        return dict(self.receiver.failed(self.sender.cast(verb, **arguments), timeout=60)["data"]["error"])

    def describe(self, **fields: Any) -> dict[str, Any]:
        """A small instance that boots from a good image."""
        return describe(self.image) | fields

    def spawn(self, **fields: Any) -> str:
        """Spawn a guest; its uuid."""
        instance = self.describe(**fields)
        self.do("spawn", instance=instance)
        return str(instance["uuid"])

    def spawned(self, number: int = 1) -> list[str]:
        """Spawn guests side by side; their uuids."""
        instances = [self.describe() for _ in range(number)]
        for operation in [self.sender.cast("spawn", instance=instance) for instance in instances]:
            self.receiver.succeeded(operation, timeout=120)
        return [instance["uuid"] for instance in instances]

    def guest(self, uuid: str) -> Guest:
        """Look at a guest from outside."""
        return Guest(self.hypervisor, uuid)

    def record(self, uuid: str) -> dict[str, Any]:
        """What the agent has on record of an instance."""
        return dict(self.sender.call("get_instance", instance_uuid=uuid))

    def lifecycle(self, uuid: str) -> list[str]:
        """The lifecycle events of an instance, in order."""
        kinds = [event["type"] for event in self.receiver.of_instance(uuid)]
        return [kind.removeprefix(LIFECYCLE) for kind in kinds if kind.startswith(LIFECYCLE)]

    def left_of(self, uuid: str) -> list[str]:
        """What an onlooker finds of an instance that should not be: on record, at the hypervisor, on disk."""
        found = ["record"] if uuid in self.sender.call("list_instance_uuids")["uuids"] else []
        found += ["domain"] if uuid in self.hypervisor.domains() else []
        found += [f"process {pid}" for pid in _processes() if any(uuid in part for part in command_line(pid))]
        found += [str(path) for path in self.agent.instances_path.rglob("*") if _is_left(path, uuid)]
        below = str(self.agent.instances_path)
        return found + [f"open {name}" for name in self.agent.open_files() if name.startswith(below)]


def _is_left(path: pathlib.Path, uuid: str) -> bool:
    return uuid in path.name or path.suffix in (".part", ".lock", ".new")


def _processes() -> list[int]:
    return [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()]


def links() -> dict[str, str]:
    """The host's network devices: what `ip` says of each, by its name."""
    told = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    return {line.split(":")[1].strip().partition("@")[0]: line for line in told.splitlines()}


@contextlib.contextmanager
def bridged() -> Iterator[str]:
    """Make a bridge on this host; its name. It is gone afterwards."""
    name = f"cabr{uuids.uuid4().hex[:8]}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=True, capture_output=True)


def interface(bridge: str, **fields: Any) -> dict[str, Any]:
    """A VIF on a bridge, as `spawn` names it: not filtered, or libvirt would leave chains on this machine."""
    return {
        "id": str(uuids.uuid4()),
        "address": "52:54:00:aa:bb:01",
        "type": "bridge",
        "bridge": bridge,
        "port_filter": False,
    } | fields


def tap_of(vif: dict[str, Any]) -> str:
    """What the host's end of a VIF with a random uuid is called, by the promise of OpenStack's agents."""
    return f"tap{vif['id'][:11]}"


@contextlib.contextmanager
def serving(
    request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor, **options: Any
) -> Iterator[Served]:
    """Let an agent with real guests serve; `options` are those of `Agent`."""
    before = hypervisor.domains()
    shown = request.config.stash[PARTS]
    with (
        Receiver(broker.transport_url) as receiver,
        Agent(broker, hypervisor, **options) as agent,
        Sender(broker.transport_url, agent.host) as sender,
    ):
        shown.append(agent)
        try:
            yield Served(agent, sender, receiver, hypervisor)
            receiver.assert_gapless()
        finally:
            shown.remove(agent)
            hypervisor.ensure()
            hypervisor.destroy_all(but=before)

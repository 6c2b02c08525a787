# SPDX-License-Identifier: Apache-2.0
"""Every verb from every state, over AMQP, on the fake and on real guests alike."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.manager import TABLE
from tests.conftest import PARTS
from tests.functional.verbs import table
from tests.functional.verbs.table import Row
from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.broker import Broker
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

LIFECYCLE = "instance.lifecycle."
OUTSIDE = {1: "running", 3: "paused", 4: "shutoff", 7: "shutoff"}
"""How a guest is to an onlooker, by its power state."""


class Bench:
    """An agent, and what it takes to bring an instance into a state and to judge it."""

    def __init__(
        self, agent: Agent, sender: Sender, receiver: Receiver, hypervisor: Hypervisor | None, image: Any
    ):
        self.agent = agent
        self.sender = sender
        self.receiver = receiver
        self.hypervisor = hypervisor
        self._image = image

    def instance_in(self, state: str) -> str:
        instance = describe(self._image, uuid=str(uuid.uuid4()))
        self.receiver.succeeded(self.sender.cast("spawn", instance=instance))
        for verb, arguments in table.REACH[state]:
            self.receiver.succeeded(self.sender.cast(verb, instance_uuid=instance["uuid"], **arguments))
        return str(instance["uuid"])

    def lifecycle_of(self, operation_id: str) -> list[str]:
        types = self.receiver.types_of(operation_id)
        return [kind.removeprefix(LIFECYCLE) for kind in types if kind.startswith(LIFECYCLE)]

    def arguments(self, verb: str) -> dict[str, Any]:
        """A verb's own arguments, beside the instance."""
        if verb == "rebuild":
            return {"image": describe(self._image)["image"]}
        return table.ARGUMENTS.get(verb, {})

    def judge(self, instance: str, state: str | None, power: int | None = None) -> None:
        """Compare the record, and the guest as seen from outside, with what they should be."""
        power = power or table.POWER.get(state or "")
        if state is None:
            assert instance not in self.sender.call("list_instance_uuids")["uuids"]
        else:
            record = self.sender.call("get_instance", instance_uuid=instance)
            assert (record["state"], record["power_state"]) == (state, power)
        if self.hypervisor is not None:
            guest = Guest(self.hypervisor, instance)
            assert guest.exists == (state is not None)
            if state is not None:
                assert guest.state == OUTSIDE[power]
                assert guest.has_saved_memory == (state == "suspended")

    def clear(self, instance: str) -> None:
        self.receiver.succeeded(self.sender.cast("destroy", instance_uuid=instance))


@pytest.fixture(scope="module", params=["fake", "libvirt"])
def bench(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Bench]:
    """One agent for the whole table; its instances are many."""
    hypervisor: Hypervisor | None = None
    image = Path("/images/any.qcow2")
    if request.param == "libvirt":
        hypervisor = request.getfixturevalue("hypervisor")
        images: Images = request.getfixturevalue("images")
        image = images.qcow2("table", POLITE)
    shown = request.config.stash[PARTS]
    with Receiver(broker.transport_url) as receiver, Agent(broker, hypervisor) as agent:
        shown.append(agent)
        with Sender(broker.transport_url, agent.host) as sender:
            yield Bench(agent, sender, receiver, hypervisor, image)
        receiver.assert_gapless()
        shown.remove(agent)


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: f"{row.verb}-{row.state}")
def test_a_verb_from_an_allowed_state(bench: Bench, row: Row) -> None:
    instance = bench.instance_in(row.state)
    operation = bench.sender.cast(row.verb, instance_uuid=instance, **bench.arguments(row.verb))
    bench.receiver.succeeded(operation)
    assert bench.lifecycle_of(operation) == list(row.lifecycle)
    bench.judge(instance, row.after, row.power)
    bench.clear(instance)


@pytest.mark.parametrize("state", table.REACH)
def test_a_verb_from_any_other_state_is_refused_and_changes_nothing(bench: Bench, state: str) -> None:
    instance = bench.instance_in(state)
    for verb in (verb for verb, refused in table.REFUSED if refused == state):
        operation = bench.sender.cast(verb, instance_uuid=instance, **bench.arguments(verb))
        assert bench.receiver.failed(operation)["data"]["error"]["code"] == "InvalidState"
        assert bench.lifecycle_of(operation) == []
    bench.judge(instance, state)
    bench.clear(instance)


def test_spawn_starts_and_start_paused_pauses(bench: Bench) -> None:
    for paused, lifecycle, state in ((False, "started", "active"), (True, "paused", "paused")):
        instance = describe(bench._image, uuid=str(uuid.uuid4()), start_paused=paused)
        operation = bench.sender.cast("spawn", instance=instance)
        bench.receiver.succeeded(operation)
        assert bench.lifecycle_of(operation) == [lifecycle]
        bench.judge(instance["uuid"], state)
        bench.clear(instance["uuid"])


def test_a_soft_reboot_asks_the_guest(bench: Bench) -> None:
    instance = bench.instance_in("active")
    operation = bench.sender.cast("reboot", instance_uuid=instance, reboot_type="SOFT")
    bench.receiver.succeeded(operation, timeout=60)
    assert bench.lifecycle_of(operation) == ["stopped", "started"]
    bench.clear(instance)


def test_a_graceful_power_off_lets_the_guest_shut_down(bench: Bench) -> None:
    instance = bench.instance_in("active")
    operation = bench.sender.cast("power_off", instance_uuid=instance, timeout=30, retry_interval=1)
    bench.receiver.succeeded(operation, timeout=60)
    bench.judge(instance, "stopped")
    bench.clear(instance)


def test_the_table_and_the_agent_agree_on_the_states() -> None:
    reachable = set(table.REACH)
    for verb in table.VERBS:
        row = TABLE[verb]
        if row.starts_from is None:
            continue
        allowed = {state.value for state in row.starts_from | row.already} & reachable
        assert allowed == {state for name, state in table.ALLOWED if name == verb}, verb

# SPDX-License-Identifier: Apache-2.0
"""Many operations: all succeed, no event is missing, the memory stands still."""

from pathlib import Path

from tests.rig.agent import Agent
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
PAIRS = 1000
WINDOW = 50
GROWTH_KIB = 4096
"""What is taken for standing still: the caches of the state file and of the allocator still fill."""


def test_a_thousand_spawns_and_destroys(receiver: Receiver, fake_agent: Agent, to_fake_agent: Sender) -> None:
    memory = {}
    for first in range(0, PAIRS, WINDOW):
        operations = []
        for _ in range(WINDOW):
            instance = describe(IMAGE)
            operations.append(to_fake_agent.cast("spawn", instance=instance))
            operations.append(to_fake_agent.cast("destroy", instance_uuid=instance["uuid"]))
        receiver.succeeded(operations[-1], timeout=60)
        memory[first + WINDOW] = fake_agent.memory_kib()
    receiver.assert_gapless()
    ends = [
        e["type"]
        for e in receiver.distinct()
        if e["type"].startswith("operation.") and e["data"].get("finished_at")
    ]
    assert len(ends) == 2 * PAIRS
    assert to_fake_agent.call("list_instance_uuids")["uuids"] == []
    assert memory[PAIRS] - memory[100] < GROWTH_KIB, memory

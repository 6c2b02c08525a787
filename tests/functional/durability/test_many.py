# SPDX-License-Identifier: Apache-2.0
"""Many operations: all succeed, no event is missing, the memory stands still."""

from collections import Counter
from pathlib import Path

from tests.rig.agent import Agent
from tests.rig.instance import describe
from tests.rig.receiver import ENDS, Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
PAIRS = 1000
WINDOW = 50
GROWTH_KIB = 4096
"""What is taken for standing still: the caches of the state file and of the allocator still fill."""


def test_a_thousand_spawns_and_destroys(receiver: Receiver, fake_agent: Agent, to_fake_agent: Sender) -> None:
    memory = {}
    for first in range(0, PAIRS, WINDOW):
        instances = [describe(IMAGE) for _ in range(WINDOW)]
        since = receiver.mark()
        spawns = [to_fake_agent.cast("spawn", instance=instance) for instance in instances]
        wait_for_ends(receiver, since, spawns)
        uuids = [instance["uuid"] for instance in instances]
        destroys = [to_fake_agent.cast("destroy", instance_uuid=uuid) for uuid in uuids]
        wait_for_ends(receiver, since, destroys)
        memory[first + WINDOW] = fake_agent.memory_kib()
    receiver.assert_gapless()
    kinds = Counter(event["type"] for event in receiver.distinct())
    assert kinds["operation.succeeded"] == 2 * PAIRS
    assert kinds["instance.lifecycle.started"] == kinds["instance.lifecycle.stopped"] == PAIRS
    assert not {"operation.failed", "operation.cancelled"} & kinds.keys()
    assert to_fake_agent.call("list_instance_uuids")["uuids"] == []
    assert memory[PAIRS] - memory[100] < GROWTH_KIB, memory


def wait_for_ends(receiver: Receiver, since: int, operations: list[str]) -> None:
    """Wait until all of them have ended; looks at nothing that came before position `since`."""
    for operation in operations:
        receiver.wait_for(
            lambda event: event["type"] in ENDS, since=since, operation_id=operation, timeout=60
        )

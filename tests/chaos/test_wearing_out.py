# SPDX-License-Identifier: Apache-2.0
"""An operation that kills the agent each time: it is undone and fails, and the agent goes on."""

from collections.abc import Iterator

import pytest

from tests.chaos.bench import Bench, Subject
from tests.chaos.fake import FakeGround
from tests.chaos.scenarios import SCENARIOS
from tests.rig.process import RigTimeoutError
from tests.rig.receiver import Payload

MAX_ATTEMPTS = 3
"""The default of [journal] max_attempts."""
LIVES = 10
VARIABLE = "COMPUTE_AGENT_FAILPOINTS"


@pytest.fixture
def bench(fake_ground: FakeGround) -> Iterator[Bench]:
    with Bench(fake_ground) as bench:
        yield bench


def wear_out(bench: Bench, name: str, armed: str) -> tuple[Subject, str, Payload, int]:
    """Run a verb with points that are armed in each life of the agent; return its end, and how many lives."""
    subject = bench.prepare(SCENARIOS[name])
    bench.agent.environment[VARIABLE] = armed
    bench.agent.arm(armed)
    operation = bench.to.cast(SCENARIOS[name].verb, **subject.arguments)
    for lives in range(1, LIVES):
        end = end_or_death(bench, operation, subject.mark)
        if end is not None:
            return subject, operation, end, lives
        bench.agent.start(wait=False)
    raise AssertionError(f"it has not ended within {LIVES} lives of the agent")


def end_or_death(bench: Bench, operation: str, since: int) -> Payload | None:
    while bench.agent.running:
        try:
            return bench.receiver.wait_for(
                lambda event: event["type"] in ("operation.succeeded", "operation.failed"),
                since=since,
                operation_id=operation,
                timeout=0.2,
            )
        except RigTimeoutError:
            continue
    return None


def disarm(bench: Bench) -> None:
    bench.agent.environment[VARIABLE] = ""
    if not bench.agent.running:
        bench.agent.start()
    bench.agent.wait_ready()
    bench.agent.arm("")


def test_a_spawn_that_kills_the_agent_each_time_is_undone_and_fails(bench: Bench) -> None:
    subject, operation, end, lives = wear_out(bench, "spawn", "spawn.start.before=kill")
    disarm(bench)
    assert lives == MAX_ATTEMPTS + 1
    assert end["data"]["error"]["code"] == "Interrupted"
    assert f"interrupted {MAX_ATTEMPTS} times" in end["data"]["error"]["message"]
    assert bench.to.call("get_operation", operation_id=operation)["attempts"] == MAX_ATTEMPTS + 1
    bench.world.read()
    assert bench.world.guests() == {bench.bystander}
    assert bench.record_of(subject.uuid) is None


def test_one_whose_undoing_kills_the_agent_too_fails_and_stays_on_record(bench: Bench) -> None:
    """What can't be undone is not lost sight of: destroy removes it."""
    subject, _, end, lives = wear_out(bench, "spawn", "spawn.start.before=kill;spawn.define.undo=kill")
    disarm(bench)
    assert lives == MAX_ATTEMPTS + 2
    assert end["data"]["error"]["code"] == "Interrupted"
    record = bench.record_of(subject.uuid)
    assert record is not None
    assert record["state"] == "error"
    assert "destroy" in record["error"]["hint"]
    assert bench.clear(subject, SCENARIOS["spawn"]) == []


def test_a_reboot_that_kills_the_agent_each_time_fails_and_the_record_says_so(bench: Bench) -> None:
    subject, _, end, _ = wear_out(bench, "reboot", "reboot.start.before=kill")
    disarm(bench)
    assert end["data"]["error"]["code"] == "Interrupted"
    record = bench.record_of(subject.uuid)
    assert record is not None
    bench.world.read()
    assert (record["state"], bench.world.state_of(subject.uuid or "")) == ("error", "stopped")
    assert record["error"]["code"] == "Interrupted"
    bench.done("reboot", instance_uuid=subject.uuid, reboot_type="HARD")
    assert bench.clear(subject, SCENARIOS["reboot"]) == []

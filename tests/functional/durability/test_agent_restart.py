# SPDX-License-Identifier: Apache-2.0
"""What was asked is done, once, whatever becomes of the agent's process meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
END = ("operation.succeeded", "operation.failed", "operation.cancelled")


def fake(tmp_path: Path, **faults: str) -> dict[str, dict[str, object]]:
    """A fake hypervisor whose guests outlive the agent."""
    options: dict[str, object] = {"ledger": tmp_path / "ledger"}
    if faults:
        options["faults"] = ", ".join(f"{name}={action}" for name, action in faults.items())
    return {"fake": options}


def ends(receiver: Receiver, operation: str) -> list[str]:
    return [kind for kind in receiver.types_of(operation) if kind in END]


def test_after_kill_9_every_queued_cast_is_done_once(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    sections = fake(tmp_path, **{"spawn.start": "slow:0.2"})
    one = agent(sections=sections | {"DEFAULT": {"max_concurrent_builds": 2}})
    to = sender(one)
    instances = [describe(IMAGE) for _ in range(20)]
    operations = [to.cast("spawn", instance=instance) for instance in instances]
    receiver.wait_for(type="operation.started")
    one.restart(kill=True)
    for operation in operations:
        receiver.succeeded(operation, timeout=60)
    assert sorted(to.call("list_instance_uuids")["uuids"]) == sorted(i["uuid"] for i in instances)
    assert [ends(receiver, operation) for operation in operations] == [["operation.succeeded"]] * 20
    started = [line for line in (tmp_path / "ledger").read_text().splitlines() if '"start' in line]
    assert len(started) >= 20
    receiver.assert_gapless()


def test_casts_sent_while_the_agent_is_away_are_done_when_it_is_back(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    one = agent(sections=fake(tmp_path))
    to = sender(one)
    one.kill()
    operations = [to.cast("spawn", instance=describe(IMAGE)) for _ in range(20)]
    one.start()
    for operation in operations:
        receiver.succeeded(operation)
    receiver.assert_gapless()


def test_sigterm_loses_nothing_and_ends_in_good_order(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    sections = fake(tmp_path, **{"spawn.start": "slow:0.2"})
    one = agent(sections=sections | {"DEFAULT": {"max_concurrent_builds": 2}})
    to = sender(one)
    operations = [to.cast("spawn", instance=describe(IMAGE)) for _ in range(10)]
    receiver.wait_for(type="operation.started")
    assert one.stop().code == 0
    one.start()
    for operation in operations:
        assert receiver.succeeded(operation, timeout=60)
        assert ends(receiver, operation) == ["operation.succeeded"]
    attempts = [receiver.end_of(operation)["data"]["attempts"] for operation in operations]
    assert set(attempts) == {1}, "what ran was let end, what waited had not begun"
    receiver.assert_gapless()


def test_an_operation_is_cancelled_before_it_comes(receiver: Receiver, to_fake_agent: Sender) -> None:
    operation = "9b2d7a52-0000-4000-8000-000000000001"
    receiver.succeeded(to_fake_agent.cast("cancel_operation", target=operation))
    to_fake_agent.cast("spawn", operation_id=operation, instance=describe(IMAGE))
    assert receiver.end_of(operation)["type"] == "operation.cancelled"
    assert to_fake_agent.call("list_instance_uuids")["uuids"] == []


def test_events_are_asked_for_again_by_their_number(receiver: Receiver, to_fake_agent: Sender) -> None:
    for _ in range(5):
        receiver.succeeded(to_fake_agent.cast("spawn", instance=describe(IMAGE)))
    told = receiver.distinct()
    answer = to_fake_agent.call("get_events", epoch=told[0]["epoch"], since=0, limit=1000)
    assert [event["seq"] for event in answer["events"]] == [event["seq"] for event in told]
    assert answer["events"][0] == told[0]
    other = to_fake_agent.call("get_events", epoch="01900000-0000-7000-8000-000000000000", since=0)
    assert other["gap"]["reason"] == "epoch"
    snapshot = to_fake_agent.call("get_snapshot")
    assert len(snapshot["instances"]) == 5
    assert snapshot["as_of"]["seq"] == told[-1]["seq"]


def test_a_lost_state_file_brings_the_instances_back_and_says_what_did_not_come(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    one = agent(sections=fake(tmp_path))
    to = sender(one)
    instance = describe(IMAGE, generation=4)
    receiver.succeeded(to.cast("spawn", instance=instance))
    before = to.call("ping")["as_of"]
    one.stop()
    for path in one.state_path.glob("state.db*"):
        path.unlink()
    one.start()
    reset = receiver.wait_for(type="host.state_reset")
    assert reset["host_id"] == before["host_id"]
    assert reset["epoch"] != before["epoch"]
    record = to.call("get_instance", instance_uuid=instance["uuid"])
    assert (record["state"], record["generation"]) == ("active", 4)


def test_a_state_directory_of_another_host_is_refused(agent: Callable[..., Agent], broker: Broker) -> None:
    one = agent()
    one.stop()
    one.configure({"DEFAULT": {"host": "another"}})
    one.start(wait=False)
    assert one.wait_end() == 78
    assert "was made for host" in one.log_text()


def test_a_queue_that_another_agent_serves_is_refused(agent: Callable[..., Agent]) -> None:
    one = agent()
    other = agent(host=one.host, start=False)
    other.start(wait=False)
    assert other.wait_end() != 0
    assert one.host in other.log_text()
    assert one.running


def test_the_options_are_read_again_on_sighup(
    receiver: Receiver, fake_agent: Agent, to_fake_agent: Sender
) -> None:
    fake_agent.configure({"DEFAULT": {"report_interval": 0.2}})
    fake_agent.reload()
    marks: list[Any] = []
    for _ in range(3):
        marks.append(receiver.wait_for(type="host.report", since=receiver.mark())["data"]["now"])
    assert to_fake_agent.call("ping")["pong"]
    assert len(set(marks)) == 3

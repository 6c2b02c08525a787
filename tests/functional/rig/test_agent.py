# SPDX-License-Identifier: Apache-2.0
"""Agent, Sender and Receiver, tried on a stand-in that echoes."""

from __future__ import annotations

import json
import sys
import uuid as uuids
from collections.abc import Callable

import pytest

from tests.rig import wire
from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.process import RigError, is_alive, wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import RemoteError, Sender, UndeliverableError

STUB = [sys.executable, "-m", "tests.functional.rig.stub_agent"]


@pytest.fixture
def stub(agent: Callable[..., Agent]) -> Agent:
    return agent(command=STUB)


def test_ready_is_waited_for_and_the_status_is_heard(stub: Agent) -> None:
    assert stub.running
    assert stub.status == "serving"
    assert stub.memory_kib() > 1000


def test_sigterm_ends_it_and_a_restart_keeps_its_state(stub: Agent) -> None:
    (stub.state_path / "kept").touch()
    stopped = stub.stop()
    assert stopped.code == 0
    assert stopped.seconds < 5
    stub.start()
    first = stub.pid
    stub.restart(kill=True)
    assert stub.pid != first
    assert (stub.state_path / "kept").exists()


def test_a_reload_reaches_it(stub: Agent) -> None:
    stub.reload()
    stub.notify.wait_status("reloaded")


def test_a_daemon_that_ends_while_it_starts_is_an_error_with_its_log(agent: Callable[..., Agent]) -> None:
    with pytest.raises(RigError, match="cannot go on"):
        agent(command=STUB, environment={"STUB_DIES": "cannot go on"})


def test_options_are_written_over_the_defaults(agent: Callable[..., Agent]) -> None:
    made = agent(command=STUB, sections={"DEFAULT": {"max_concurrent_builds": 3, "debug": None}}, start=False)
    text = made.config_file.read_text()
    assert "max_concurrent_builds = 3" in text
    assert "debug" not in text
    assert f"state_path = {made.state_path}" in text


def test_nothing_of_a_closed_agent_is_left(broker: Broker) -> None:
    with Agent(broker, command=STUB) as agent:
        pid = agent.pid
    assert not is_alive(pid)
    assert not agent.scratch.exists()


def test_a_cast_ends_in_an_event_and_repetitions_are_dropped(
    stub: Agent, receiver: Receiver, sender: Callable[[Agent], Sender]
) -> None:
    operations = [sender(stub).cast("spawn", number=number) for number in range(5)]
    for operation_id in operations:
        assert receiver.succeeded(operation_id)["operation_id"] == operation_id
    wait_until(lambda: len(receiver.events) == 10, 5, "all of the events, each twice")
    assert [event["operation_id"] for event in receiver.distinct()] == operations
    receiver.assert_gapless()


def test_a_gap_is_found(receiver: Receiver, broker: Broker) -> None:
    events = Sender(broker.transport_url, "nobody")
    for seq in (1, 2, 4):
        event = {"host": "h", "host_id": "h", "epoch": "1", "seq": seq, "type": "x"}
        body = wire.envelope({"payload": event})
        events.publish_raw(body, routing_key=wire.EVENTS_ROUTING_KEY)
    receiver.wait_for(seq=4)
    with pytest.raises(AssertionError, match=r"event 4 .* came after 2"):
        receiver.assert_gapless()
    events.close()


def test_no_event_is_missed_while_the_broker_restarts(
    stub: Agent, receiver: Receiver, sender: Callable[[Agent], Sender], broker: Broker
) -> None:
    talker = sender(stub)
    receiver.succeeded(talker.cast("spawn"))
    stub.stop()
    broker.settle()
    broker.restart(kill=True)
    operation_id = talker.cast("spawn")
    stub.start()
    receiver.succeeded(operation_id)
    receiver.assert_gapless()


def test_a_call_returns_the_result_or_raises_the_error(
    stub: Agent, sender: Callable[[Agent], Sender]
) -> None:
    talker = sender(stub)
    assert talker.call("ping", number=1) == {"number": 1}
    with pytest.raises(RemoteError) as caught:
        talker.call("fail", code="HostBusy", message="later", retryable=True)
    assert caught.value.code == "HostBusy"
    assert caught.value.fields["retryable"] is True


def test_a_message_for_nobody_is_undeliverable(broker: Broker, sender: Callable[[str], Sender]) -> None:
    talker = sender(f"nobody-{uuids.uuid4().hex}")
    with pytest.raises(UndeliverableError):
        talker.cast("spawn")


def test_any_bytes_can_be_published(
    broker: Broker, receiver: Receiver, sender: Callable[[str], Sender]
) -> None:
    with wire.connect(broker.transport_url) as connection:
        channel = connection.channel()
        channel.exchange_declare(wire.EXCHANGE, "topic", durable=True, auto_delete=False)
        queue = channel.queue_declare("", exclusive=True).queue
        channel.queue_bind(queue, wire.EXCHANGE, wire.agent_queue("raw"))
        sender("raw").publish_raw(b"\xff not json", content_type=None, content_encoding=None)
        sender("raw").publish(wire.request("ping", {"a": 1}, {"request_id": "req-1"}))
        raw = wait_until(lambda: channel.basic_get(queue, no_ack=True), 5, "the bytes")
        assert raw.body == b"\xff not json"
        assert "content_type" not in raw.properties
        cast = wire.opened(wait_until(lambda: channel.basic_get(queue, no_ack=True), 5, "the cast").body)
        assert cast["_context_request_id"] == "req-1"
        assert json.dumps(cast["args"]) == '{"a": 1}'

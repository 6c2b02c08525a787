# SPDX-License-Identifier: Apache-2.0
"""A scheduler's view: verbs by cast and call, questions, following operations and events."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oslo_config import cfg

from compute_agent.model import errors
from compute_agent.rpc import ComputeAPI, client, envelope
from compute_agent.rpc.client import BrokerUnavailable, HostNotFound, NoAnswer, NotEnded
from compute_agent.rpc.consumer import RawMessage
from compute_agent.rpc.names import MESSAGE_LIMIT
from compute_agent.rpc.replies import Replier
from compute_agent.rpc.transport import create_transport
from tests.functional.rpc.conftest import DEADLINE_S, HOST
from tests.rig import wire
from tests.rig.broker import Broker
from tests.rig.process import wait_until

INSTANCE = str(uuid.uuid4())
EPOCH = str(uuid.uuid4())
Respond = Callable[[envelope.Request], Any]


class StubAgent:
    """Serves the queue: keeps the requests, answers calls by `respond`, or not at all if that gives None."""

    def __init__(self, transport: Any) -> None:
        self.requests: list[envelope.Request] = []
        self.respond: Respond = lambda request: {"as_of": {}}
        self._replier = Replier(transport)

    def on_batch(self, messages: list[RawMessage]) -> None:
        for message in messages:
            request = envelope.parse(message.body, message.content_type, MESSAGE_LIMIT)
            self.requests.append(request)
            message.ack()
            self._answer(request)

    def _answer(self, request: envelope.Request) -> None:
        if request.msg_id is None or request.reply_q is None:
            return
        try:
            answer = self.respond(request)
        except errors.ComputeError as error:
            self._replier.reply(request.reply_q, request.msg_id, error=error)
        else:
            if answer is not None:
                self._replier.reply(request.reply_q, request.msg_id, result=answer)

    def close(self) -> None:
        self._replier.close()


@pytest.fixture
def stub(transport: Any, consume: Callable[..., Any]) -> Iterator[StubAgent]:
    made = StubAgent(transport)
    consume(made.on_batch)
    yield made
    made.close()


@pytest.fixture
def api(transport: Any) -> Iterator[ComputeAPI]:
    with ComputeAPI(
        transport, HOST, timeout=DEADLINE_S, context={"request_id": "req-7", "token": "t"}
    ) as made:
        yield made


def answers(*values: Any) -> Respond:
    """Answer with one value after the other, the last one for ever; raise those that are errors."""
    left = list(values)

    def respond(_request: envelope.Request) -> Any:
        value = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(value, errors.ComputeError):
            raise value
        return value

    return respond


def test_a_cast_arrives_with_the_id_that_is_returned(api: ComputeAPI, stub: StubAgent) -> None:
    operation_id = api.power_off(instance_uuid=INSTANCE, timeout=5)
    wait_until(lambda: stub.requests, DEADLINE_S, "the cast")
    (request,) = stub.requests
    assert request.method == "power_off"
    assert request.args == {"instance_uuid": INSTANCE, "timeout": 5, "operation_id": operation_id}
    assert request.context == {"request_id": "req-7"}
    assert not request.is_call


def test_the_callers_own_id_is_used(api: ComputeAPI, stub: StubAgent) -> None:
    mine = str(uuid.uuid4())
    assert api.power_on(instance_uuid=INSTANCE, operation_id=mine) == mine


def test_a_verb_by_call_returns_the_record(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = lambda request: {"operation_id": request.args["operation_id"], "state": "accepted"}
    mine = str(uuid.uuid4())
    record = api.call("pause", instance_uuid=INSTANCE, operation_id=mine)
    assert record == {"operation_id": mine, "state": "accepted"}


def test_an_error_of_the_agent_is_raised_as_its_own_class(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = answers(errors.InstanceNotFound("no such instance", hint="look elsewhere"))
    with pytest.raises(errors.InstanceNotFound) as caught:
        api.get_instance(instance_uuid=INSTANCE)
    assert type(caught.value) is errors.InstanceNotFound
    assert caught.value.to_error().code == "InstanceNotFound"
    assert caught.value.hint == "look elsewhere"


def test_wrong_arguments_are_not_sent(api: ComputeAPI, stub: StubAgent) -> None:
    with pytest.raises(errors.InvalidArguments):
        api.power_off(instance_uuid="../etc")
    with pytest.raises(errors.InvalidArguments):
        api.power_off(instance_uuid=INSTANCE, speed=9)
    with pytest.raises(errors.UnknownVerb):
        api.cast("launch_missiles")
    api.ping()
    assert [request.method for request in stub.requests] == ["ping"]


def test_a_host_without_a_queue_is_not_found(api: ComputeAPI, stub: StubAgent, broker: Broker) -> None:
    with pytest.raises(HostNotFound):
        api.on("nobody").power_on(instance_uuid=INSTANCE)
    with pytest.raises(HostNotFound):
        api.on("nobody").ping()
    assert not broker.has_queue("compute.nobody")
    assert api.ping() == {"as_of": {}}


def test_neither_exchange_nor_queue_is_declared(transport: Any, broker: Broker) -> None:
    api = ComputeAPI(transport, HOST, exchange="nobodys", timeout=DEADLINE_S)
    with pytest.raises(HostNotFound):
        api.power_on(instance_uuid=INSTANCE)
    with wire.connect(broker.transport_url) as connection, pytest.raises(wire.amqp.exceptions.NotFound):
        connection.channel().exchange_declare("nobodys", "topic", passive=True)


def test_the_schedulers_own_messaging_options_do_not_matter(
    stub: StubAgent, transport_for: Callable[..., Any]
) -> None:
    transient = transport_for(rabbit_quorum_queue="false", amqp_durable_queues="false")
    with ComputeAPI(transient, HOST, timeout=DEADLINE_S) as api:
        assert api.ping() == {"as_of": {}}


def test_silence_ends_in_time(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = lambda request: None
    api.timeout = 0.3
    began = time.monotonic()
    with pytest.raises(NoAnswer):
        api.ping()
    assert time.monotonic() - began < DEADLINE_S


def test_without_a_broker_everything_fails_in_time(broker: Broker) -> None:
    broker.stop()
    transport = create_transport(cfg.CONF, broker.transport_url)
    began = time.monotonic()
    with ComputeAPI(transport, HOST, timeout=0.5) as api:
        with pytest.raises(BrokerUnavailable):
            api.power_on(instance_uuid=INSTANCE)
        with pytest.raises(BrokerUnavailable):
            api.ping()
    assert time.monotonic() - began < DEADLINE_S


def test_calls_go_on_after_the_brokers_restart(api: ComputeAPI, stub: StubAgent, broker: Broker) -> None:
    api.ping()
    broker.restart()
    api.power_on(instance_uuid=INSTANCE)
    wait_until(lambda: stub.requests[-1].method == "power_on", DEADLINE_S, "the cast")


def test_many_threads_may_call(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = lambda request: {"args": request.args}
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(20):
            asked = str(uuid.uuid4())
            answer = api.get_instance(instance_uuid=asked)
            if answer["args"] != {"instance_uuid": asked}:
                wrong.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not wrong
    assert len(stub.requests) == 100


def test_wait_follows_an_operation_to_its_end(api: ComputeAPI, stub: StubAgent) -> None:
    unknown = errors.OperationNotFound("not yet")
    states = [{"state": state} for state in ("accepted", "running", "succeeded")]
    stub.respond = answers(unknown, *states)
    seen: list[str] = []
    record = api.wait(str(uuid.uuid4()), 20, on_progress=lambda record: seen.append(record["state"]))
    assert record["state"] == "succeeded"
    assert seen == ["accepted", "running", "succeeded"]


def test_wait_tells_what_it_last_heard(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = answers({"state": "running", "step": "fetch"})
    with pytest.raises(NotEnded) as caught:
        api.wait(str(uuid.uuid4()), 0.3)
    assert caught.value.record == {"state": "running", "step": "fetch"}


def test_wait_gives_up_on_an_operation_that_stays_unknown(
    api: ComputeAPI, stub: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "UNKNOWN_PATIENCE_S", 0.2)
    stub.respond = answers(errors.OperationNotFound("never"))
    with pytest.raises(errors.OperationNotFound):
        api.wait(str(uuid.uuid4()), 20)


def page(*numbers: int, gap: dict[str, Any] | None = None, next_since: int = 0) -> dict[str, Any]:
    events = [{"type": "instance.updated", "seq": number} for number in numbers]
    return {"events": events, "gap": gap, "next_since": next_since, "as_of": {"epoch": EPOCH}}


def test_events_come_page_by_page_to_the_end(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = answers(page(4, 5, next_since=5), page(6, next_since=6), page(next_since=6))
    assert [event["seq"] for event in api.events(since=3)] == [4, 5, 6]
    asked = [(request.args["since"], request.args.get("epoch")) for request in stub.requests]
    assert asked == [(3, None), (5, EPOCH), (6, EPOCH)]


def test_a_gap_is_the_last_thing_told(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = answers(page(gap={"reason": "retention", "oldest": 9}))
    assert list(api.events(since=3)) == [{"type": "gap", "reason": "retention", "oldest": 9}]


def test_following_waits_for_more(api: ComputeAPI, stub: StubAgent) -> None:
    stub.respond = answers(page(1, next_since=1), page(next_since=1), page(2, next_since=2))
    following = api.events(follow=True)
    assert [next(following)["seq"], next(following)["seq"]] == [1, 2]

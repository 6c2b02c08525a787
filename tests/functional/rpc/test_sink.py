# SPDX-License-Identifier: Apache-2.0
"""Events reach whoever bound a queue, confirmed one by one; what fails, fails at once and can be ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute_agent.events.sink import SinkUnavailable
from compute_agent.rpc.names import EVENTS_KEY
from compute_agent.rpc.sender import SEND_TIMEOUT_S
from compute_agent.rpc.sink import BrokerSink
from tests.functional.rpc.conftest import DEADLINE_S, HOST
from tests.rig import wire
from tests.rig.broker import Broker
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver

SHORT_S = 2.0
"""Long enough to connect and be confirmed on a busy machine, much shorter than what is usual."""


@pytest.fixture
def sink(transport: Any) -> Iterator[BrokerSink]:
    made = BrokerSink(transport, HOST)
    yield made
    made.close()


def event(number: int) -> dict[str, Any]:
    return {"type": "instance.updated", "host": HOST, "host_id": "h", "epoch": "e", "seq": number, "data": {}}


def test_events_arrive_in_order_as_notifications(sink: BrokerSink, receiver: Receiver) -> None:
    for number in range(200):
        sink.publish_all([(event(number), {"request_id": "req-1"})])
    receiver.wait_for(seq=199)
    assert [got["seq"] for got in receiver.events] == list(range(200))
    message = receiver.deliveries[0].message
    assert message["publisher_id"] == f"compute.{HOST}"
    assert message["event_type"] == "instance.updated"
    assert message["priority"] == "INFO"
    assert message["_context_request_id"] == "req-1"
    assert message["message_id"] and message["timestamp"].endswith("Z")


def test_no_queue_is_declared_that_nobody_reads(sink: BrokerSink, broker: Broker) -> None:
    sink.publish_all([(event(1), {})])
    assert not broker.has_queue(EVENTS_KEY)


def test_an_ephemeral_event_expires_on_the_broker(sink: BrokerSink, channel: Any, broker: Broker) -> None:
    channel.queue_declare("slow-reader", durable=True, auto_delete=False, arguments=wire.QUORUM)
    channel.queue_bind("slow-reader", wire.EXCHANGE, EVENTS_KEY)
    try:
        sink.publish(event(1), context={}, expires_after_s=0.2)
        wait_until(lambda: broker.queue_length("slow-reader") == 0, DEADLINE_S, "the expiry")
        sink.publish_all([(event(2), {})])
        wait_until(lambda: broker.queue_length("slow-reader") == 1, DEADLINE_S, "the lasting one")
        lasting = channel.basic_get("slow-reader", no_ack=True)
        assert wire.opened(lasting.body)["payload"]["seq"] == 2
        assert lasting.properties["delivery_mode"] == 2
    finally:
        channel.queue_delete("slow-reader")


def test_without_a_broker_an_attempt_fails_at_once_and_a_later_one_succeeds(
    sink: BrokerSink, broker: Broker
) -> None:
    sink.publish_all([(event(1), {})])
    broker.stop()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(SinkUnavailable):
            sink.publish_all([(event(2), {})])
        assert time.monotonic() - began < SEND_TIMEOUT_S
    broker.start()
    sink.publish_all([(event(2), {})])


def test_a_hanging_broker_fails_an_attempt_within_its_time(transport: Any, broker: Broker) -> None:
    sink = BrokerSink(transport, HOST, timeout=SHORT_S)
    sink.publish_all([(event(1), {})])
    broker.suspend()
    try:
        began = time.monotonic()
        with pytest.raises(SinkUnavailable):
            sink.publish_all([(event(2), {})])
        assert SHORT_S <= time.monotonic() - began < SEND_TIMEOUT_S
    finally:
        broker.resume()
        sink.close()


def test_close_ends_an_attempt_that_hangs(sink: BrokerSink, broker: Broker) -> None:
    sink.publish_all([(event(1), {})])
    failed: list[Exception] = []
    trying = threading.Event()

    def publish() -> None:
        try:
            trying.set()
            sink.publish_all([(event(2), {})])
        except SinkUnavailable as error:
            failed.append(error)

    broker.suspend()
    try:
        thread = threading.Thread(target=publish)
        thread.start()
        assert trying.wait(DEADLINE_S)
        began = time.monotonic()
        sink.close()
        thread.join(DEADLINE_S)
        assert failed
        assert time.monotonic() - began < SEND_TIMEOUT_S
        with pytest.raises(SinkUnavailable):
            sink.publish_all([(event(3), {})])
    finally:
        broker.resume()


def test_many_threads_may_publish(sink: BrokerSink, receiver: Receiver) -> None:
    def some(first: int) -> None:
        for number in range(first, first + 50):
            sink.publish_all([(event(number), {})])

    threads = [threading.Thread(target=some, args=(first,)) for first in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    wait_until(lambda: len(receiver.events) == 150, DEADLINE_S, "every event", receiver.evidence)
    assert {got["seq"] for got in receiver.events} == set(range(150))


def test_connections_cut_by_the_broker_cost_one_attempt(
    sink: BrokerSink, broker: Broker, receiver: Receiver, retried: Callable[..., int]
) -> None:
    sink.publish_all([(event(1), {})])
    broker.close_connections()
    assert retried(lambda: sink.publish_all([(event(2), {})])) <= 1
    receiver.wait_for(seq=2)


@pytest.fixture
def retried() -> Callable[..., int]:
    """Try until it succeeds; how many attempts failed."""

    def trying(attempt: Callable[[], None]) -> int:
        for failures in range(10):
            try:
                attempt()
            except SinkUnavailable:
                continue
            return failures
        raise AssertionError("ten attempts failed")

    return trying

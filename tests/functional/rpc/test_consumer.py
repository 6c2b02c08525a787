# SPDX-License-Identifier: Apache-2.0
"""The consumer hands over every message, acknowledges when it is told to, and comes back by itself."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.rpc import consumer as consumers
from compute_agent.rpc.consumer import Consumer, RawMessage, count_consumers
from compute_agent.rpc.names import EXCHANGE
from tests.functional.rpc.conftest import DEADLINE_S, HOST, QUEUE, Taker
from tests.rig import wire
from tests.rig.broker import Broker
from tests.rig.process import wait_until
from tests.rig.sender import Sender, UndeliverableError

Publish = Callable[..., None]
Consume = Callable[..., Consumer]

MIB = 1024 * 1024
IDLE_STOP_S = 2.0


def on_the_broker(broker: Broker) -> int:
    """Messages of the queue that the broker has not forgotten, delivered or not.

    `list_queues` tells what was a few seconds ago, so the queue's own state is asked.
    """
    queue = f"{{'%2F_{QUEUE}', node()}}"
    ask = f"{{ok, {{_, N}}, _}} = ra:local_query({queue}, fun rabbit_fifo:query_messages_total/1), N."
    return int(broker.ctl("eval", ask))


@pytest.mark.parametrize(
    ("body", "properties"),
    [
        (b"no JSON at all \xff\xfe\x00", {"content_type": "application/json", "content_encoding": "utf-8"}),
        (b'{"oslo.version": "2.0"', {"content_type": "application/json"}),
        (b"{}", {}),
        (b"", {"content_type": "application/json"}),
        (b"\x80\x04K\x01.", {"content_type": "application/x-python-serialize"}),
        (b"caf\xe9", {"content_type": "text/plain", "content_encoding": "latin-1"}),
        (b"not gzip", {"content_type": "application/json", "application_headers": {"compression": "gzip"}}),
    ],
    ids=["not JSON", "truncated", "no content type", "empty", "pickle", "other encoding", "compressed"],
)
def test_a_message_comes_as_it_was_sent(
    consume: Consume, publish: Publish, body: bytes, properties: dict[str, Any]
) -> None:
    taker = Taker()
    consume(taker)
    publish(body, **properties)
    (message,) = taker.wait_for(1)
    assert bytes(message.body) == body
    assert message.size == len(body)
    assert message.content_type == properties.get("content_type")
    assert message.content_encoding == properties.get("content_encoding")
    assert message.headers == properties.get("application_headers", {})
    assert not message.redelivered


def test_the_same_bytes_a_hundred_times_all_come(consume: Consume, publish: Publish, broker: Broker) -> None:
    taker = Taker()
    consume(taker, prefetch=16)
    for _ in range(100):
        publish(b'{"oslo.version": "2.0", "oslo.message": "{\\"_unique_id\\": \\"same\\"}"}')
    publish(b"one more")
    assert bytes(taker.wait_for(101)[-1].body) == b"one more"
    assert on_the_broker(broker) == 0


def test_a_huge_message_is_seen_by_its_size_and_harms_nothing(
    consume: Consume, publish: Publish, broker: Broker
) -> None:
    taker = Taker()
    consume(taker)
    publish(b"[" * (50 * MIB), content_type="application/json", content_encoding="utf-8")
    publish(b"after it")
    huge, after = taker.wait_for(2)
    assert huge.size == 50 * MIB
    assert bytes(after.body) == b"after it"


def test_batches_end_by_size(consume: Consume, publish: Publish) -> None:
    taker = Taker()
    consumer = consume(taker)
    consumer.pause()
    wait_until(lambda: not consumer.connected, DEADLINE_S, "the pause")
    for _ in range(5):
        publish(b"." * (6 * MIB))
    consumer.resume()
    taker.wait_for(5)
    assert max(taker.batches) <= 1 + consumers.BATCH_BYTES // (6 * MIB)


def test_acknowledgements_go_out_at_once_when_nothing_else_happens(
    consume: Consume, publish: Publish, broker: Broker
) -> None:
    taker = Taker()
    consume(taker)
    publish(b"one")
    taker.wait_for(1)
    assert on_the_broker(broker) == 0


def test_another_thread_may_acknowledge_later(consume: Consume, publish: Publish, broker: Broker) -> None:
    taker = Taker(settle=lambda message: None)
    consume(taker)
    publish(b"one")
    (message,) = taker.wait_for(1)
    assert on_the_broker(broker) == 1
    message.ack()
    assert on_the_broker(broker) == 0


def test_acknowledgements_out_of_order_settle_what_they_name(
    consume: Consume, publish: Publish, broker: Broker
) -> None:
    taker = Taker(settle=lambda message: None)
    consumer = consume(taker)
    for number in range(4):
        publish(b"%d" % number)
    messages = taker.wait_for(4)
    for number in (3, 1, 1):
        messages[number].ack()
    messages[1].requeue()  # too late: the first verdict counts
    consumer.pause()
    wait_until(lambda: on_the_broker(broker) == 2, DEADLINE_S, "two settled messages")
    consumer.resume()
    again = taker.wait_for(6)[4:]
    assert sorted(bytes(message.body) for message in again) == [b"0", b"2"]


def test_a_requeued_message_comes_again(consume: Consume, publish: Publish) -> None:
    taker = Taker(settle=lambda message: message.ack() if message.redelivered else message.requeue())
    consume(taker)
    publish(b"again")
    first, second = taker.wait_for(2)
    assert (first.redelivered, second.redelivered) == (False, True)


def test_a_batch_whose_handler_fails_comes_again(
    consume: Consume, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(message: RawMessage) -> None:
        if not message.redelivered:
            raise ValueError("a bug")
        message.ack()

    monkeypatch.setattr(consumers, "AFTER_ERROR_S", 0.01)
    taker = Taker(settle=fail_once)
    consume(taker)
    publish(b"again")
    assert len(taker.wait_for(2)) == 2


def test_a_pause_gives_unacknowledged_messages_back(
    consume: Consume, publish: Publish, broker: Broker
) -> None:
    taker = Taker(settle=lambda message: None)
    consumer = consume(taker)
    publish(b"one")
    taker.wait_for(1)
    consumer.pause()
    wait_until(lambda: broker.queue_length(QUEUE) == 1, DEADLINE_S, "the message's return")
    assert not consumer.connected
    publish(b"two")
    taker.settle = RawMessage.ack
    consumer.resume()
    assert [bytes(message.body) for message in taker.wait_for(3)] == [b"one", b"one", b"two"]


def test_an_idle_consumer_stops_at_once(consume: Consume) -> None:
    consumer = consume(Taker())
    began = time.monotonic()
    assert consumer.stop(DEADLINE_S)
    assert time.monotonic() - began < IDLE_STOP_S


def test_a_consumer_that_can_not_connect_stops_at_once(consume: Consume, broker: Broker) -> None:
    consumer = consume(Taker())
    broker.stop()
    wait_until(lambda: consumer.problem is not None, DEADLINE_S, "the outage")
    began = time.monotonic()
    assert consumer.stop(DEADLINE_S)
    assert time.monotonic() - began < IDLE_STOP_S


class Slow:
    """Takes its time over a message, until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, message: RawMessage) -> None:
        self.begun.set()
        assert self.go_on.wait(DEADLINE_S)
        message.ack()


def test_stop_lets_the_batch_in_progress_end_and_begins_no_other(
    consume: Consume, publish: Publish, broker: Broker
) -> None:
    slow = Slow()
    taker = Taker(settle=slow)
    consumer = consume(taker, batch_size=1)
    publish(b"one")
    publish(b"two")
    assert slow.begun.wait(DEADLINE_S)
    assert not consumer.stop(timeout=0.05)
    slow.go_on.set()
    assert consumer.stop(DEADLINE_S)
    assert taker.bodies == [b"one"]
    assert on_the_broker(broker) == 1


def test_a_connection_closed_in_the_middle_of_a_batch_loses_nothing(
    consume: Consume, publish: Publish, broker: Broker
) -> None:
    slow = Slow()
    taker = Taker(settle=slow)
    consumer = consume(taker)
    for number in range(20):
        publish(b"%d" % number)
    assert slow.begun.wait(DEADLINE_S)
    broker.close_connections()
    slow.go_on.set()
    wait_until(lambda: len(set(taker.bodies)) == 20, DEADLINE_S, "every message", taker.evidence)
    wait_until(lambda: on_the_broker(broker) == 0, DEADLINE_S, "every acknowledgement")
    assert consumer.connected


def test_a_deleted_queue_is_declared_again(
    consume: Consume, publish: Publish, channel: Any, broker: Broker
) -> None:
    taker = Taker()
    consumer = consume(taker)
    channel.queue_delete(QUEUE)
    wait_until(lambda: broker.has_queue(QUEUE) and consumer.connected, DEADLINE_S, "the queue")
    publish(b"one")
    assert len(taker.wait_for(1)) == 1


def test_a_deleted_exchange_is_declared_and_bound_again(
    consume: Consume, broker: Broker, channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "DECLARE_INTERVAL_S", 0.2)
    taker = Taker()
    consumer = consume(taker)
    channel.exchange_delete(EXCHANGE)

    def arrives() -> bool:
        with Sender(broker.transport_url, HOST) as to, contextlib.suppress(*wire.BROKEN, UndeliverableError):
            to.publish_raw(b"one")
            return True
        return False

    wait_until(arrives, DEADLINE_S, "a bound queue")
    assert bytes(taker.wait_for(1)[0].body) == b"one"
    assert consumer.connected and consumer.problem is None


def test_an_outage_is_told_once_and_survived(
    consume: Consume, publish: Publish, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    taker = Taker()
    consumer = consume(taker)
    broker.stop()
    wait_until(lambda: consumer.problem is not None, DEADLINE_S, "the outage")
    broker.start()
    assert consumer.wait_connected(DEADLINE_S), consumer.problem
    publish(b"after it")
    assert len(taker.wait_for(1)) == 1
    told = [record for record in caplog.records if record.name.startswith(("compute_agent", "oslo"))]
    assert [record.levelname for record in told] == ["WARNING", "INFO"], caplog.text


def test_consumers_of_a_queue_are_counted(consume: Consume, transport: Any) -> None:
    assert count_consumers(transport, QUEUE) == 0
    consume(Taker())
    assert count_consumers(transport, QUEUE) == 1
    assert count_consumers(transport, "compute.nobody") == 0

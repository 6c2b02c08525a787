# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the wire's own tests: a consumer in this process, and plain AMQP to judge it by."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest
from oslo_config import cfg

from compute_agent.rpc.consumer import Consumer, RawMessage
from compute_agent.rpc.names import EXCHANGE, queue_of
from compute_agent.rpc.transport import create_transport
from tests.rig import wire
from tests.rig.broker import Broker
from tests.rig.process import wait_until

HOST = "wired"
QUEUE = queue_of(HOST)
DEADLINE_S = 20.0


@pytest.fixture
def transport_for(broker: Broker) -> Iterator[Callable[..., Any]]:
    """Make transports: `transport_for(rabbit_qos_prefetch_count=16)`."""
    cfg.CONF([], project="compute-agent", default_config_files=[])
    made: list[Any] = []

    def make(**options: object) -> Any:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        made.append(create_transport(cfg.CONF, f"{broker.transport_url}?{query}"))
        return made[-1]

    yield make
    for one in made:
        one.cleanup()


@pytest.fixture
def transport(transport_for: Callable[..., Any]) -> Any:
    return transport_for()


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A plain channel with publisher confirms."""
    connection = wire.connect(broker.transport_url, confirm_publish=True)
    yield connection.channel()
    wire.close(connection)


@pytest.fixture
def queue(channel: Any) -> Iterator[str]:
    """The queue of the agent's, empty and bound before any consumer; gone after the test."""
    channel.exchange_declare(EXCHANGE, "topic", durable=True, auto_delete=False)
    channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=wire.QUORUM)
    channel.queue_bind(QUEUE, EXCHANGE, QUEUE)
    yield QUEUE
    with contextlib.suppress(*wire.BROKEN):
        channel.queue_delete(QUEUE)


@pytest.fixture
def publish(broker: Broker) -> Iterator[Callable[..., None]]:
    """Send bytes to the queue, as they are, over whatever connection there is."""
    connections: list[Any] = []

    def send(body: bytes, **properties: Any) -> None:
        connection = wire.connect(broker.transport_url, confirm_publish=True)
        connections.append(connection)
        message = amqp.Message(body, delivery_mode=2, **properties)
        connection.channel().basic_publish(message, exchange=EXCHANGE, routing_key=QUEUE, mandatory=True)

    yield send
    for one in connections:
        wire.close(one)


class Taker:
    """What a consumer's `on_batch` is in these tests: keeps the messages, and settles them by `settle`."""

    def __init__(self, settle: Callable[[RawMessage], object] = RawMessage.ack) -> None:
        self.settle = settle
        self.messages: list[RawMessage] = []
        self.batches: list[int] = []
        self._news = threading.Condition()

    def __call__(self, batch: list[RawMessage]) -> None:
        with self._news:
            self.messages += batch
            self.batches.append(len(batch))
            self._news.notify_all()
        for message in batch:
            self.settle(message)

    @property
    def bodies(self) -> list[bytes]:
        return [bytes(message.body) for message in self.messages]

    def wait_for(self, count: int) -> list[RawMessage]:
        """The messages, once there are so many."""
        wait_until(lambda: len(self.messages) >= count, DEADLINE_S, f"{count} messages", self.evidence)
        return self.messages

    def evidence(self) -> str:
        return f"there are {len(self.messages)}: {[body[:40] for body in self.bodies[-10:]]}"


@pytest.fixture
def consume(transport_for: Callable[..., Any], queue: str) -> Iterator[Callable[..., Consumer]]:
    """Make and start consumers; stopped after the test."""
    made: list[Consumer] = []

    def make(on_batch: Callable[[list[RawMessage]], object], prefetch: int = 64, **options: Any) -> Consumer:
        transport = transport_for(rabbit_qos_prefetch_count=prefetch, rabbit_interval_max=1)
        consumer = Consumer(transport, server=HOST, on_batch=on_batch, **options)
        made.append(consumer)
        consumer.start()
        assert consumer.wait_connected(DEADLINE_S), consumer.problem
        return consumer

    yield make
    for one in made:
        assert one.stop(DEADLINE_S)

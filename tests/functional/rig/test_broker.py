# SPDX-License-Identifier: Apache-2.0
"""Broker: private, restartable with its data, and gone after use."""

from __future__ import annotations

import amqp
import pytest

from tests.rig import wire
from tests.rig.broker import Broker
from tests.rig.process import RigError, is_alive, wait_until


def fill(broker: Broker, queue: str, bodies: list[str]) -> None:
    """A durable quorum queue with persistent messages, as the agent's own queue is."""
    with wire.connect(broker.transport_url, confirm_publish=True) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=wire.QUORUM)
        for body in bodies:
            channel.basic_publish(amqp.Message(body, delivery_mode=2), routing_key=queue)


def drain(broker: Broker, queue: str, count: int) -> list[str]:
    """So many messages from the queue, acknowledged."""
    taken: list[str] = []
    with wire.connect(broker.transport_url) as connection:
        channel = connection.channel()
        tag = channel.basic_consume(queue, no_ack=True, callback=lambda message: taken.append(message.body))
        while len(taken) < count:
            connection.drain_events(timeout=20)
        channel.basic_cancel(tag)
        channel.queue_delete(queue)
    return taken


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_messages_outlive_the_broker(broker: Broker, kill: bool) -> None:
    fill(broker, "outlives", ["one", "two"])
    broker.settle()
    before = broker.pid
    broker.restart(kill=kill)
    assert broker.pid != before
    assert drain(broker, "outlives", 2) == ["one", "two"]


def test_the_length_of_a_queue_is_seen_from_outside(broker: Broker) -> None:
    fill(broker, "counted", ["one", "two", "three"])
    wait_until(lambda: broker.queue_length("counted") == 3, 5, "three messages")
    assert drain(broker, "counted", 3) == ["one", "two", "three"]
    with pytest.raises(RigError, match="counted"):
        broker.queue_length("counted")


def test_a_suspended_broker_answers_nothing_and_goes_on_afterwards(broker: Broker) -> None:
    broker.suspend()
    with pytest.raises(OSError):
        wire.connect(broker.transport_url, read_timeout=0.5).close()
    broker.resume()
    broker.wait_ready()


def test_a_broken_broker_is_mended(broker: Broker) -> None:
    broker.kill()
    assert not broker.reachable()
    broker.ensure()
    assert broker.reachable()


def test_it_listens_on_loopback_alone_and_leaves_nothing() -> None:
    with Broker() as broker:
        processes = broker.processes()
        ports = broker.listening()
        assert {"beam.smp", "epmd"} <= set(processes.values())
        assert broker.port in {port for _address, port in ports}
        assert {address for address, _port in ports} <= {"127.0.0.1", "::1"}
    assert not [name for pid, name in processes.items() if is_alive(pid)]
    assert not broker.scratch.exists()

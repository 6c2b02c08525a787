# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong once, events and the heartbeat go on."""

from typing import Any

import pytest

from compute_agent import concurrency
from compute_agent.events import publisher as publisher_module
from compute_agent.events.publisher import Publisher
from compute_agent.model import clock
from compute_agent.model.event import Event, EventType
from compute_agent.store.database import Store
from tests.unit.events.test_publisher import Broker, tell, wait_sent


def test_an_unforeseen_problem_of_the_store_or_the_sink_is_survived(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Broker()
    publisher = Publisher(store, broker)
    tell(store, 2)
    problems: list[Exception] = [RuntimeError("sink"), OSError("store")]
    publish_all, read = broker.publish_all, store.read

    def publish_at_last(events: Any) -> None:
        if len(problems) == 2:
            raise problems.pop(0)
        publish_all(events)

    def read_at_last(function: Any) -> Any:
        if len(problems) == 1:
            raise problems.pop()
        return read(function)

    monkeypatch.setattr(publisher_module, "RETRY_S", (0.01, 0.01))
    monkeypatch.setattr(broker, "publish_all", publish_at_last)
    monkeypatch.setattr(store, "read", read_at_last)
    publisher.start()
    wait_sent(publisher, 2)
    publisher.stop()
    assert broker.got == [1, 2]


def test_an_unforeseen_problem_of_the_sink_does_not_end_the_heartbeat(store: Store) -> None:
    broker, sent = Broker(), list[Any]()

    def publish(event: dict[str, Any], *, context: dict[str, Any], expires_after_s: float) -> None:
        sent.append(event["type"])
        if len(sent) == 1:
            raise RuntimeError("once")

    broker.publish = publish  # type: ignore[method-assign]
    publisher = Publisher(store, broker)
    publisher.start()
    identity = store.identity
    assert identity is not None
    report = Event(
        host="node-1",
        host_id=identity.host_id,
        epoch=identity.epoch,
        seq=None,
        occurred_at=clock.timestamp(),
        type=EventType.HOST_REPORT,
    )
    for _ in range(2):
        publisher.send_ephemeral(report, 1.0)
        concurrency.sleep(0.02)
    publisher.stop()
    assert len(sent) == 2

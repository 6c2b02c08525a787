# SPDX-License-Identifier: Apache-2.0
"""Events leave in order, whatever the broker does."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest

from compute_agent import concurrency
from compute_agent.events.publisher import Publisher
from compute_agent.events.sink import Sink, SinkUnavailable
from compute_agent.model.event import EventType
from compute_agent.store import outbox
from compute_agent.store.database import Store


class Broker:
    """Takes events while it is up; loses the answer to every n-th."""

    def __init__(self) -> None:
        self.up = True
        self.lose_every = 0
        self.calls = 0
        self.refuses: int | None = None
        self.windows: list[int] = []
        self.got: list[int | None] = []

    def publish(self, event: dict[str, Any], *, context: dict[str, Any], expires_after_s: float) -> None:
        raise NotImplementedError

    def publish_all(self, events: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        concurrency.sleep(0)
        self.windows.append(len(events))
        for number, (event, _context) in enumerate(events):
            self.calls += 1
            if not self.up:
                raise SinkUnavailable("down", number)
            if event["seq"] == self.refuses:
                raise SinkUnavailable("a queue is full", number, refused=True)
            self.got.append(event["seq"])
            if self.lose_every and self.calls % self.lose_every == 0:
                raise SinkUnavailable("the confirmation was lost", number)


def tell(store: Store, times: int = 1) -> None:
    for _ in range(times):
        store.write(lambda tx: outbox.append(tx, EventType.HOST_PROBLEM))


def wait_sent(publisher: Publisher, seq: int) -> None:
    for _ in range(1000):
        if publisher.sent_seq >= seq:
            return
        concurrency.sleep(0.005)
    raise AssertionError(f"sent only up to {publisher.sent_seq}")


def test_events_are_sent_in_order(store: Store) -> None:
    broker = Broker()
    publisher = Publisher(store, broker)
    tell(store, 5)
    publisher.start()
    tell(store, 5)
    wait_sent(publisher, 10)
    publisher.stop()
    assert broker.got == list(range(1, 11))


def test_what_the_broker_did_not_take_is_kept_and_sent_when_it_is_back(store: Store) -> None:
    broker = Broker()
    broker.up = False
    publisher = Publisher(store, broker)
    publisher.start()
    tell(store, 3)
    while broker.calls == 0:
        concurrency.sleep(0.005)
    assert publisher.away_s is not None and broker.got == []
    broker.up = True
    wait_sent(publisher, 3)
    publisher.stop()
    assert broker.got == [1, 2, 3] and publisher.away_s is None


def test_a_lost_confirmation_makes_a_duplicate_and_no_disorder(store: Store) -> None:
    broker = Broker()
    broker.lose_every = 3
    publisher = Publisher(store, broker)
    tell(store, 6)
    publisher.start()
    wait_sent(publisher, 6)
    publisher.stop()
    first_of_each = list(dict.fromkeys(broker.got))
    assert first_of_each == [1, 2, 3, 4, 5, 6] and broker.got == sorted(broker.got)  # type: ignore[type-var]


def test_after_a_restart_only_what_was_not_sent_is_sent(store: Store) -> None:
    publisher = Publisher(store, Broker())
    tell(store, 3)
    publisher.start()
    wait_sent(publisher, 3)
    publisher.stop()
    tell(store, 2)
    broker = Broker()
    publisher = Publisher(store, broker)
    publisher.start()
    wait_sent(publisher, 5)
    publisher.stop()
    assert broker.got == [4, 5]


def test_more_events_than_are_kept_in_memory_are_read_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compute_agent.events.publisher.FRESH_LIMIT", 5)
    broker = Broker()
    broker.up = False
    publisher = Publisher(store, broker)
    publisher.start()
    tell(store, 250)
    broker.up = True
    wait_sent(publisher, 250)
    tell(store, 3)
    wait_sent(publisher, 253)
    publisher.stop()
    assert broker.got == list(range(1, 254))


def test_after_a_refusal_events_go_one_by_one_for_a_while(store: Store) -> None:
    broker = Broker()
    broker.refuses = 3
    publisher = Publisher(store, broker)
    tell(store, 6)
    publisher.start()
    while len(broker.windows) < 2:
        concurrency.sleep(0.005)
    assert "a queue is full" in (publisher.problem or "")
    broker.refuses = None
    wait_sent(publisher, 6)
    publisher.stop()
    assert broker.got == [1, 2, 3, 4, 5, 6]
    assert broker.windows[0] == 6 and set(broker.windows[1:]) == {1}
    assert publisher.problem is None


def test_a_report_that_can_not_be_sent_shows_that_the_broker_is_away(store: Store) -> None:
    sink = mock.create_autospec(Sink, instance=True)
    sink.publish.side_effect = SinkUnavailable("down")
    publisher = Publisher(store, sink)
    publisher.start()
    report = store.read(lambda tx: outbox.unsent(tx, 0, 1))
    assert report == [] and publisher.problem is None
    tell(store)
    event = store.read(lambda tx: outbox.unsent(tx, 0, 1))[0]
    publisher.send_ephemeral(event, 1.0)
    while publisher.problem is None:
        concurrency.sleep(0.005)
    assert "down" in publisher.problem
    sink.publish.side_effect = None
    publisher.send_ephemeral(event, 1.0)
    while publisher.problem is not None:
        concurrency.sleep(0.005)
    publisher.stop()

# SPDX-License-Identifier: Apache-2.0
"""A plain consumer of events, in AMQP alone.

Its queue is its own, named, durable and quorum, so it misses nothing while the broker restarts; it is
deleted when the Receiver is closed. Invariants: `events` is in the order of arrival and holds duplicates
as they came; an event is acknowledged only after it was kept.

A consumer that has just begun may get what comes meanwhile in reverse (rabbitmq-server 14386: missing
deliveries are handed over backwards). So it counts as consuming once a message of its own came through.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid as uuids
from collections.abc import Callable
from typing import Any, Self

import amqp

from tests.rig import wire
from tests.rig.part import Part
from tests.rig.process import RigError, RigTimeoutError, wait_until

Payload = dict[str, Any]

ENDS = ("operation.succeeded", "operation.failed", "operation.cancelled", "operation.rejected")

_START_DEADLINE_S = 30.0
_PAUSE_S = 0.1
_POLL_S = 0.2
_PROBE = "probe"


@dataclasses.dataclass(frozen=True)
class Delivery:
    """One event as it came: the notification around it, the event itself, and when (monotonic seconds)."""

    message: Payload
    payload: Payload
    at: float
    redelivered: bool


class Receiver(Part):
    """Collects the events of every agent on a broker, in a thread of its own.

    host: keep only the events of this host.
    """

    def __init__(self, transport_url: str, host: str | None = None) -> None:
        self.queue = f"receiver-{uuids.uuid4().hex[:12]}"
        self.deliveries: list[Delivery] = []
        self._url = transport_url
        self._host = host
        self._news = threading.Condition()
        self._stopping = threading.Event()
        self._consuming = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=self.queue)
        self._trouble = ""

    def start(self) -> Self:
        """Start to consume; returns when the queue is bound."""
        self._thread.start()
        wait_until(self._consuming.is_set, _START_DEADLINE_S, "the receiver's queue", lambda: self._trouble)
        return self

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._consume()
            except wire.BROKEN as error:
                self._consuming.clear()
                self._trouble = repr(error)
                self._stopping.wait(_PAUSE_S)

    def _consume(self) -> None:
        connection = wire.connect(self._url)
        try:
            channel = connection.channel()
            channel.exchange_declare(wire.EXCHANGE, "topic", durable=True, auto_delete=False)
            channel.queue_declare(self.queue, durable=True, auto_delete=False, arguments=wire.QUORUM)
            channel.queue_bind(self.queue, wire.EXCHANGE, wire.EVENTS_ROUTING_KEY)
            channel.basic_qos(0, 200, False)
            tag = channel.basic_consume(self.queue, callback=self._take)
            channel.basic_publish(amqp.Message(correlation_id=_PROBE), "", self.queue)
            while not self._stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=_POLL_S)
            channel.basic_cancel(tag)
            channel.queue_delete(self.queue)
        finally:
            wire.close(connection)

    def _take(self, message: amqp.Message) -> None:
        if message.properties.get("correlation_id") == _PROBE:
            self._consuming.set()
        else:
            self._keep(message)
        message.channel.basic_ack(message.delivery_tag)

    def _keep(self, message: amqp.Message) -> None:
        opened = wire.opened(message.body)
        redelivered = bool(message.delivery_info.get("redelivered"))
        delivery = Delivery(opened, opened["payload"], time.monotonic(), redelivered)
        if self._host in (None, delivery.payload.get("host")):
            with self._news:
                self.deliveries.append(delivery)
                self._news.notify_all()

    @property
    def consuming(self) -> bool:
        """Whether it is connected and consumes."""
        return self._consuming.is_set()

    @property
    def events(self) -> list[Payload]:
        """Every event so far, in the order of arrival."""
        with self._news:
            return [delivery.payload for delivery in self.deliveries]

    def distinct(self) -> list[Payload]:
        """The stored events without repetitions: those that have a `seq`, each the first time it came."""
        seen, found = set(), []
        for event in self.events:
            identity = (event["host_id"], event["epoch"], event.get("seq"))
            if event.get("seq") is not None and identity not in seen:
                seen.add(identity)
                found.append(event)
        return found

    def of_operation(self, operation_id: str) -> list[Payload]:
        """The stored events of an operation, in order, without repetitions."""
        return [event for event in self.distinct() if event.get("operation_id") == operation_id]

    def of_instance(self, instance_uuid: str) -> list[Payload]:
        """The stored events of an instance, in order, without repetitions."""
        return [event for event in self.distinct() if event.get("instance_uuid") == instance_uuid]

    def types_of(self, operation_id: str) -> list[str]:
        """The types of an operation's events, in order."""
        return [event["type"] for event in self.of_operation(operation_id)]

    def mark(self) -> int:
        """A position for `wait_for(since=...)`: only what comes after it counts."""
        with self._news:
            return len(self.deliveries)

    def wait_for(
        self,
        predicate: Callable[[Payload], bool] | None = None,
        *,
        timeout: float = 60.0,
        since: int = 0,
        **fields: object,
    ) -> Payload:
        """The first event, from position `since`, that has these `fields` and satisfies `predicate`.

        Raises RigTimeoutError with the events that came.
        """
        deadline, position = time.monotonic() + timeout, since
        with self._news:
            while True:
                for delivery in self.deliveries[position:]:
                    if _fits(delivery.payload, predicate, fields):
                        return delivery.payload
                position = max(position, len(self.deliveries))
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._news.wait(left)
        raise RigTimeoutError(f"no event with {fields} came within {timeout} s\n{self.evidence()}")

    def end_of(self, operation_id: str, timeout: float = 60.0) -> Payload:
        """The event that ends an operation, whichever way."""
        return self.wait_for(lambda event: event["type"] in ENDS, operation_id=operation_id, timeout=timeout)

    def succeeded(self, operation_id: str, timeout: float = 60.0) -> Payload:
        """The `operation.succeeded` of an operation. Raises RigError at once if it ends otherwise."""
        event = self.end_of(operation_id, timeout)
        if event["type"] != "operation.succeeded":
            raise RigError(f"operation {operation_id} ended {event['type']}: {event['data'].get('error')}")
        return event

    def failed(self, operation_id: str, timeout: float = 60.0) -> Payload:
        """The `operation.failed` of an operation. Raises RigError at once if it ends otherwise."""
        event = self.end_of(operation_id, timeout)
        if event["type"] != "operation.failed":
            raise RigError(f"operation {operation_id} ended {event['type']}: {event['data'].get('result')}")
        return event

    def assert_gapless(self) -> None:
        """Every host's stored events rise by exactly one, repetitions dropped."""
        last: dict[tuple[str, str], int] = {}
        for event in self.distinct():
            source = (event["host_id"], event["epoch"])
            before = last.get(source)
            assert before is None or event["seq"] == before + 1, (
                f"{event['host']}: event {event['seq']} ({event['type']}) came after {before}"
            )
            last[source] = event["seq"]

    def evidence(self) -> str:
        """The last events, for a failing test."""
        lines = [_line(event) for event in self.events[-40:]]
        state = "consumes" if self.consuming else f"is cut off: {self._trouble}"
        return "\n".join([f"--- receiver {self.queue} {state}, {len(self.deliveries)} events", *lines])

    def close(self) -> None:
        """Stop consuming and delete the queue."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=15)


def _fits(event: Payload, predicate: Callable[[Payload], bool] | None, fields: dict[str, object]) -> bool:
    same = all(event.get(name) == value for name, value in fields.items())
    return same and (predicate is None or predicate(event))


def _line(event: Payload) -> str:
    place = event.get("seq") if event.get("seq") is not None else f"({event.get('last_seq')})"
    error = (event.get("data") or {}).get("error")
    rest = f" {error}" if error else ""
    return f"{place} {event.get('type')} {event.get('instance_uuid')} {event.get('operation_id')}{rest}"

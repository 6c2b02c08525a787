# SPDX-License-Identifier: Apache-2.0
"""The client's side of every bench, in plain AMQP and the same for ours and the floor.

Times are the client's own: from before the publish until the event that ends the operation was taken off
its queue.
"""

from __future__ import annotations

import dataclasses
import time
import uuid as uuids
from collections.abc import Mapping, Sequence
from typing import Any

import amqp

from tests.bench.names import FLOOR_TOPIC
from tests.rig import wire
from tests.rig.process import RigError, wait_until
from tests.rig.receiver import ENDS, Delivery, Receiver
from tests.rig.sender import Sender

_FLOOR_KEY = f"{FLOOR_TOPIC}.info"
_DEADLINE_S = 180.0


class FloorReceiver(Receiver):
    """Consumes the queue that oslo.messaging's notifier declares by itself, so that nothing is kept twice."""

    def __init__(self, transport_url: str) -> None:
        super().__init__(transport_url)
        self.queue = _FLOOR_KEY
        self._transport_url = transport_url

    def start(self) -> FloorReceiver:
        super().start()
        with wire.connect(self._transport_url) as connection:
            channel = connection.channel()
            channel.queue_bind(self.queue, wire.EXCHANGE, _FLOOR_KEY)
            channel.queue_unbind(self.queue, wire.EXCHANGE, wire.EVENTS_ROUTING_KEY)
        return self


@dataclasses.dataclass(frozen=True)
class Performed:
    """An operation, seen by the client: all of its events, and when (monotonic, and wall clock) what came."""

    operation_id: str
    seconds: float
    cast_at: float
    received_at: float
    events: list[dict[str, Any]]


class Client:
    """Casts to one server and waits for the events of its operations."""

    def __init__(self, transport_url: str, host: str, receiver: Receiver) -> None:
        self.receiver = receiver
        self.sender = Sender(transport_url, host)
        self._url = transport_url
        self._routing_key = wire.agent_queue(host)

    def perform(self, verb: str, **arguments: object) -> Performed:
        """One operation from cast to end. Raises RigError unless it succeeds."""
        return self.perform_all(verb, [arguments])[0]

    def perform_all(self, verb: str, several: Sequence[Mapping[str, object]]) -> list[Performed]:
        """Cast them at once, each confirmed, and wait for all of their ends."""
        mark, cast = self.receiver.mark(), {}
        for arguments in several:
            began = time.monotonic(), time.time()
            cast[self.sender.cast(verb, **arguments)] = began
        return [self._ended(operation_id, mark, *began) for operation_id, began in cast.items()]

    def _ended(self, operation_id: str, mark: int, began: float, cast_at: float) -> Performed:
        self.receiver.wait_for(
            lambda event: event["type"] in ENDS,
            since=mark,
            operation_id=operation_id,
            timeout=_DEADLINE_S,
        )
        deliveries = self.receiver.deliveries[mark:]
        mine = [delivery for delivery in deliveries if delivery.payload.get("operation_id") == operation_id]
        end = next(delivery for delivery in mine if delivery.payload["type"] in ENDS)
        if end.payload["type"] != "operation.succeeded":
            raise RigError(f"{operation_id} ended {end.payload['type']}: {end.payload['data'].get('error')}")
        took = end.at - began
        events = [delivery.payload for delivery in mine]
        return Performed(operation_id, took, cast_at, cast_at + took, events)

    def burst(self, verb: str, several: Sequence[Mapping[str, object]]) -> float:
        """Publish them without a pause, and wait for all of their ends; the seconds of it.

        Raises RigError unless all succeed.
        """
        bodies = [
            wire.envelope(wire.request(verb, {"operation_id": str(uuids.uuid4()), **arguments}))
            for arguments in several
        ]
        mark = self.receiver.mark()
        began = time.monotonic()
        with wire.connect(self._url) as connection:
            channel = connection.channel()
            for body in bodies:
                message = amqp.Message(
                    body, content_type="application/json", content_encoding="utf-8", delivery_mode=2
                )
                channel.basic_publish(message, wire.EXCHANGE, self._routing_key)
            return self._last_of(len(bodies), mark) - began

    def _last_of(self, count: int, mark: int) -> float:
        """When the last of `count` ends came."""
        ends: list[Delivery] = []
        position = mark

        def all_there() -> bool:
            nonlocal position
            fresh = self.receiver.deliveries[position:]
            position += len(fresh)
            ends.extend(delivery for delivery in fresh if delivery.payload["type"] in ENDS)
            return len(ends) >= count

        wait_until(all_there, _DEADLINE_S, f"{count} ends", lambda: f"{len(ends)} came")
        bad = [end.payload for end in ends if end.payload["type"] != "operation.succeeded"]
        if bad:
            raise RigError(f"{len(bad)} of {count} did not succeed: {bad[0]['data'].get('error')}")
        return ends[-1].at

    def close(self) -> None:
        """Disconnect the sender; the receiver is the caller's."""
        self.sender.close()

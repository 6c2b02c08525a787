# SPDX-License-Identifier: Apache-2.0
"""The world's end of the outbox: a broker that fails in every way, and a receiver that notes what comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compute_agent import concurrency
from compute_agent.events.sink import SinkUnavailable
from compute_agent.model.event import EventType

ENDS = frozenset({EventType.OPERATION_SUCCEEDED, EventType.OPERATION_FAILED, EventType.OPERATION_CANCELLED})


class Receiver:
    """Takes events from one life after another; `wrong` says which promise was broken.

    Promised: by number without gaps, in order, and what comes twice is the same both times.
    """

    def __init__(self) -> None:
        self.up = True
        self.take = 10**9
        """How many events it takes before it fails once."""
        self.lose_answer = False
        """Whether it then has the event whose confirmation it fails to give."""
        self.events: list[dict[str, Any]] = []
        self.wrong: list[str] = []

    def sink(self, outside: Callable[[], None]) -> Sink:
        """Return a way to it, for one life."""
        return Sink(self, outside)

    def receive(self, event: dict[str, Any]) -> None:
        """Take one event, and look at what was promised."""
        seq = event["seq"]
        if seq == len(self.events) + 1:
            self.events.append(event)
        elif not 0 < seq <= len(self.events):
            self.wrong.append(f"event {seq} after {len(self.events)}")
        elif self.events[seq - 1] != event:
            self.wrong.append(f"event {seq} differs from itself: {self.events[seq - 1]}, {event}")

    def ends(self) -> dict[str, list[dict[str, Any]]]:
        """The ends that were told of each operation, repeated ones left out."""
        found: dict[str, list[dict[str, Any]]] = {}
        for event in self.events:
            if event["type"] in ENDS and not event["data"].get("repeated"):
                found.setdefault(event["operation_id"], []).append(event)
        return found

    def repeated(self) -> set[str]:
        """The operations of which an end was told again."""
        return {event["operation_id"] for event in self.events if event["data"].get("repeated")}

    def types_of(self, operation_id: str) -> list[str]:
        """What was told of an operation itself, in order, as the last part of each type."""
        return [
            event["type"].rpartition(".")[2]
            for event in self.events
            if event["operation_id"] == operation_id
            and event["type"].startswith("operation.")
            and event["type"] != EventType.OPERATION_REJECTED
            and not event["data"].get("repeated")
        ]


class Sink:
    """What a life's publisher hands its events to."""

    def __init__(self, receiver: Receiver, outside: Callable[[], None]) -> None:
        self._receiver, self._outside = receiver, outside

    def publish(self, event: dict[str, Any], *, context: dict[str, Any], expires_after_s: float) -> None:
        self._outside()

    def publish_all(self, events: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        for number, (event, _context) in enumerate(events):
            concurrency.sleep(0)
            self._outside()
            if not self._receiver.up:
                raise SinkUnavailable("the broker is away", number)
            self._receiver.take -= 1
            if self._receiver.take > 0:
                self._receiver.receive(event)
                continue
            self._receiver.take = 10**9
            if self._receiver.lose_answer:
                self._receiver.receive(event)
            raise SinkUnavailable("not confirmed", number)

# SPDX-License-Identifier: Apache-2.0
"""Events onto the broker, as oslo.messaging notifications of version 2.

A notifier of oslo.messaging is not used: it logs and swallows what goes wrong, and declares a queue
that is named like the routing key, which nobody reads and which fills the broker. Receivers bind
queues of their own; an event that nobody has bound a queue for is confirmed and gone, and is still
to be had by ``get_events``.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from compute_agent.events.sink import SinkUnavailable
from compute_agent.model import clock
from compute_agent.rpc import envelope
from compute_agent.rpc.link import LOST
from compute_agent.rpc.names import EVENTS_KEY, EXCHANGE
from compute_agent.rpc.sender import SEND_TIMEOUT_S, Incomplete, Refused, Sender, Unroutable

PRIORITY = "INFO"


class BrokerSink:
    """Publishes events, each confirmed. Implements :class:`compute_agent.events.sink.Sink`.

    :param host: named as the publisher: ``compute.<host>``
    :param timeout: how long the broker may take to confirm one, in seconds
    """

    def __init__(
        self, transport: Any, host: str, *, exchange: str = EXCHANGE, timeout: float = SEND_TIMEOUT_S
    ) -> None:
        self._publisher_id = f"compute.{host}"
        self._exchange = exchange
        self._timeout = timeout
        self._sender = Sender(transport, declares=exchange)

    def publish(
        self, event: dict[str, Any], *, context: dict[str, Any], expires_after_s: float | None = None
    ) -> None:
        """Send ``event`` and return when the broker has it. One attempt.

        :param expires_after_s: seconds after which the broker may drop it
        :raises SinkUnavailable: if it was not confirmed; the broker may have it all the same
        """
        try:
            self._sender.send(
                envelope.wrap(self._notification(event, context)),
                exchange=self._exchange,
                routing_key=EVENTS_KEY,
                expires_after_s=expires_after_s,
                timeout=self._timeout,
            )
        except (*LOST, Unroutable) as error:
            raise SinkUnavailable(f"{type(error).__name__}: {error}") from error

    def publish_all(self, events: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Send events with their contexts, in order, and return when the broker has them all. One attempt.

        :raises SinkUnavailable: if not all were confirmed; the broker may have them all the same
        """
        bodies = [envelope.wrap(self._notification(event, context)) for event, context in events]
        try:
            self._sender.send_all(
                bodies, exchange=self._exchange, routing_key=EVENTS_KEY, timeout=self._timeout
            )
        except Incomplete as error:
            refused = isinstance(error.__cause__, Refused)
            raise SinkUnavailable(str(error), error.confirmed, refused=refused) from error

    def close(self) -> None:
        """Disconnect; whoever publishes gets :class:`SinkUnavailable`."""
        self._sender.close()

    def _notification(self, event: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
        return {
            "message_id": str(uuid.uuid4()),
            "publisher_id": self._publisher_id,
            "event_type": event["type"],
            "priority": PRIORITY,
            "payload": event,
            "timestamp": clock.timestamp(),
            "_unique_id": envelope.fresh_id(),
            **envelope.packed_context(context),
        }

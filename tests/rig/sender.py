# SPDX-License-Identifier: Apache-2.0
"""A plain sender of casts and calls, in AMQP alone: what a scheduler in any language would do.

It declares neither the exchange nor the agent's queue. Every publish is mandatory and confirmed: a host
without a queue raises. It may be used by several threads, each with a connection of its own.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid as uuids
from collections.abc import Mapping
from typing import Any, Self

import amqp

from tests.rig import wire
from tests.rig.process import RigTimeoutError


class UndeliverableError(Exception):
    """No queue took the message: no agent ever served this host on this broker."""


class RemoteError(Exception):
    """A call that the agent answered with an error. `fields` holds all of the Error on the wire."""

    def __init__(self, failure: Mapping[str, Any]) -> None:
        self.fields: dict[str, Any] = dict(failure.get("kwargs") or {})
        self.code = str(self.fields.get("code", failure.get("class")))
        self.failure = dict(failure)
        super().__init__(f"{self.code}: {self.fields.get('message', failure.get('message'))}")


class Sender:
    """Sends to the agent of `host`.

    context: what goes along as the caller's context, besides a request id of its own for each message.
    """

    def __init__(self, transport_url: str, host: str, context: Mapping[str, object] | None = None) -> None:
        self.host = host
        self.context = dict(context or {"project_id": "project-1", "user_id": "user-1"})
        self._url = transport_url
        self._mine = threading.local()
        self._all: list[amqp.Connection] = []

    def cast(self, verb: str, **arguments: object) -> str:
        """Cast a verb; its operation id, made up unless given. Raises UndeliverableError."""
        operation_id = str(arguments.setdefault("operation_id", str(uuids.uuid4())))
        self.publish(wire.request(verb, arguments, self._context()))
        return operation_id

    def call(self, method: str, *, wait_s: float = 30.0, **arguments: object) -> Any:
        """Call a verb or a question; the result. Raises RemoteError, UndeliverableError, RigTimeoutError."""
        channel, reply_queue = self._reply_queue()
        number = uuids.uuid4().hex
        extra: dict[str, Any] = {"_msg_id": number, "_reply_q": reply_queue, "_timeout": wait_s}
        try:
            self.publish(wire.request(method, arguments, self._context(), **extra))
            return _result(self._reply(channel, reply_queue, number, method, wait_s))
        finally:
            with contextlib.suppress(*wire.BROKEN):
                channel.queue_delete(reply_queue)

    def _reply_queue(self) -> tuple[Any, str]:
        """A channel that works, with a queue for the answer."""
        try:
            return self._channel(), self._channel().queue_declare("", exclusive=True, auto_delete=True).queue
        except wire.BROKEN:
            self._drop()
            return self._channel(), self._channel().queue_declare("", exclusive=True, auto_delete=True).queue

    def _reply(self, channel: Any, queue: str, number: str, method: str, wait_s: float) -> dict[str, Any]:
        replies: list[dict[str, Any]] = []
        tag = channel.basic_consume(
            queue, no_ack=True, callback=lambda m: replies.append(wire.opened(m.body))
        )
        deadline = time.monotonic() + wait_s
        while True:
            for reply in replies:
                if reply["_msg_id"] == number:
                    channel.basic_cancel(tag)
                    return reply
            left = deadline - time.monotonic()
            if left <= 0:
                raise RigTimeoutError(f"no answer to {method} from {self.host} within {wait_s} s")
            with contextlib.suppress(TimeoutError):
                channel.connection.drain_events(timeout=left)

    def publish(self, message: Mapping[str, object]) -> None:
        """Publish a message in its envelope, as given."""
        self.publish_raw(wire.envelope(message))

    def publish_raw(
        self,
        body: bytes,
        *,
        content_type: str | None = "application/json",
        content_encoding: str | None = "utf-8",
        routing_key: str | None = None,
        exchange: str = wire.EXCHANGE,
        **properties: object,
    ) -> None:
        """Publish any bytes with any properties; persistent unless `delivery_mode` says otherwise."""
        given = {
            "content_type": content_type,
            "content_encoding": content_encoding,
            "delivery_mode": 2,
        } | properties
        message = amqp.Message(body, **{name: value for name, value in given.items() if value is not None})
        self._publish(message, exchange, routing_key or wire.agent_queue(self.host))

    def _publish(self, message: amqp.Message, exchange: str, routing_key: str) -> None:
        """A connection that broke while nothing was sent on it is replaced, once."""
        for last in (False, True):
            channel = self._channel()
            returned = self._mine.returned
            returned.clear()
            try:
                channel.basic_publish_confirm(
                    message, exchange, routing_key, mandatory=True, confirm_timeout=30
                )
                break
            except wire.BROKEN:
                self._drop()
                if last:
                    raise
        if returned:
            raise UndeliverableError(f"no queue takes {routing_key}: {returned[0]}")

    def _context(self) -> dict[str, object]:
        return {"request_id": f"req-{uuids.uuid4()}", **self.context}

    def _channel(self) -> Any:
        """This thread's channel, opened when it is needed."""
        if getattr(self._mine, "channel", None) is None:
            connection = wire.connect(self._url, confirm_publish=True)
            self._all.append(connection)
            self._mine.connection, self._mine.channel, self._mine.returned = (
                connection,
                connection.channel(),
                [],
            )
            returned = self._mine.returned
            self._mine.channel.events["basic_return"].add(lambda *why: returned.append(why[0]))
        return self._mine.channel

    def _drop(self) -> None:
        self._mine.channel = None
        wire.close(self._mine.connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            wire.close(connection)
        self._all.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _result(reply: Mapping[str, Any]) -> Any:
    failure = reply.get("failure")
    if failure:
        raise RemoteError(json.loads(failure) if isinstance(failure, str) else failure)
    return reply.get("result")

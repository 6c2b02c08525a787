# SPDX-License-Identifier: Apache-2.0
"""The wire as `docs` state it, written down a second time without any library of ours or of OpenStack.

`Sender` and `Receiver` stand on it. What both sides of the agent's own code might get wrong together
shows here.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid as uuids
from collections.abc import Mapping
from typing import Any

import amqp

EXCHANGE = "compute_agent"
EVENTS_ROUTING_KEY = "compute_events.info"
RPC_VERSION = "1.0"
#: What a connection may fail with.
BROKEN = (OSError, amqp.exceptions.AMQPError)

QUORUM = {"x-queue-type": "quorum"}

_URL = re.compile(r"rabbit://(?P<user>[^:]+):(?P<password>[^@]+)@(?P<address>[^/]+)/(?P<vhost>.*)")


def agent_queue(host: str) -> str:
    """The queue, and routing key, of a host's agent."""
    return f"compute.{host}"


def connect(transport_url: str, **options: Any) -> amqp.Connection:
    """Open an AMQP connection by a transport URL. Raises OSError or amqp.AMQPError."""
    match = _URL.fullmatch(transport_url)
    if match is None:
        raise ValueError(f"not a transport URL of one broker: {transport_url}")
    connection = amqp.Connection(
        match["address"],
        match["user"],
        match["password"],
        virtual_host=match["vhost"] or "/",
        connect_timeout=5,
        **options,
    )
    try:
        connection.connect()
    except BaseException:
        connection.collect()
        raise
    return connection


def close(connection: amqp.Connection) -> None:
    """Close a connection, in whatever state it is, without complaint."""
    with contextlib.suppress(*BROKEN):
        if connection.connected:
            connection.close()
    with contextlib.suppress(*BROKEN):
        connection.collect()


def envelope(message: Mapping[str, object]) -> bytes:
    """A message in the envelope of oslo.messaging, version 2.0."""
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def opened(body: bytes | str) -> dict[str, Any]:
    """The message in an envelope."""
    outer = json.loads(body)
    message = json.loads(outer["oslo.message"])
    assert outer["oslo.version"] == "2.0", outer
    assert isinstance(message, dict), message
    return message


def request(
    method: str,
    arguments: Mapping[str, object],
    context: Mapping[str, object] | None = None,
    version: str = RPC_VERSION,
    **extra: object,
) -> dict[str, object]:
    """A cast of `method`; a call if `_msg_id`, `_reply_q` and `_timeout` are among `extra`."""
    message: dict[str, object] = {"method": method, "args": dict(arguments), "version": version}
    message |= {f"_context_{name}": value for name, value in (context or {}).items()}
    return message | {"_unique_id": uuids.uuid4().hex} | extra

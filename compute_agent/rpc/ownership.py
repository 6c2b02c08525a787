# SPDX-License-Identifier: Apache-2.0
"""One queue, one agent: whoever starts asks first whether somebody else serves its queue."""

import logging
import time
from typing import Any

import oslo_messaging

from compute_agent import concurrency, notify
from compute_agent.rpc.consumer import LOST, count_consumers
from compute_agent.rpc.transport import EXCHANGE, RPC_VERSION, TOPIC, create_transport, queue_of
from compute_agent.store.database import Identity

LOG = logging.getLogger(__name__)

PATIENCE_S = 180.0
"""How long a silent consumer may keep us waiting: a broker notices a dead one by its heartbeats."""
ASK_S = 3
RETRY_S = 1.0


class QueueTaken(Exception):
    """Another agent serves the queue; the message says which."""


def claim(transport: Any, identity: Identity | None) -> None:
    """Return when nobody else serves this host's queue.

    :raises QueueTaken: if an agent with another ``host_id`` does, or one that does not answer
    """
    assert identity is not None
    deadline = time.monotonic() + PATIENCE_S
    while _consumers(transport, identity.host):
        other = _who_serves(identity.host)
        if other is not None and other != identity.host_id:
            raise QueueTaken(
                f"queue {queue_of(identity.host)} is served by the agent with host_id {other}: "
                "two hosts must not have the same [DEFAULT] host"
            )
        if time.monotonic() > deadline:
            raise QueueTaken(f"queue {queue_of(identity.host)} has a consumer that does not answer")
        notify.status("waiting for another consumer of our queue to go")
        concurrency.sleep(RETRY_S)


def _consumers(transport: Any, host: str) -> int:
    """Return how many consume the queue, as soon as the broker can be asked."""
    told = False
    while True:
        try:
            return count_consumers(transport, queue_of(host))
        except LOST as error:
            if not told:
                LOG.warning("the broker can't be reached, trying until it can: %s", error)
                told = True
            notify.status(f"waiting for the broker: {error}")
            concurrency.sleep(RETRY_S)


def _who_serves(host: str) -> str | None:
    transport = create_transport()  # of its own: its connections go with it
    target = oslo_messaging.Target(exchange=EXCHANGE, topic=TOPIC, server=host, version=RPC_VERSION)
    client = oslo_messaging.get_rpc_client(transport, target, timeout=ASK_S)
    try:
        answer = client.call({}, "ping")
    except oslo_messaging.MessagingException:
        return None
    finally:
        transport.cleanup()
    return str(answer["as_of"]["host_id"])

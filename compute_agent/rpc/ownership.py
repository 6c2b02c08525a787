# SPDX-License-Identifier: Apache-2.0
"""One queue, one agent: whoever serves a host's queue holds a lock at the broker.

The lock is an exclusive queue, ``<queue>:owner``, declared on the very connection that consumes. So whoever
consumes holds it, and it is free as soon as that connection has ended: nothing has to be given back, not even
after ``kill -9``. A connection whose end nobody told the broker of holds it until its heartbeats are missed.

Invariants:

- :class:`Ownership` gives no connection that has not the lock.
- From a start's claim to the first consuming the same connection holds it: there is no gap to slip through.
- Whoever is locked out asks the queue who serves it. A stranger is named; a former self is waited for.
"""

import contextlib
import logging
import threading
import time
from typing import Any

import amqp.exceptions
import oslo_messaging

from compute_agent import concurrency, notify
from compute_agent.rpc.consumer import LOST, count_consumers
from compute_agent.rpc.link import Link
from compute_agent.rpc.transport import EXCHANGE, RPC_VERSION, TOPIC, create_transport, queue_of
from compute_agent.store.database import Identity

LOG = logging.getLogger(__name__)

PATIENCE_S = 180.0
"""How long a silent consumer may keep us waiting: a broker notices a dead one by its heartbeats."""
ASK_S = 3
RETRY_S = 1.0
FRAME_S = 0.05


class QueueLocked(oslo_messaging.MessagingException):  # type: ignore[misc]
    """Another connection serves the queue, and it is not known whose."""


class QueueTaken(QueueLocked):
    """An agent with another ``host_id`` serves the queue; the message says which."""


class Ownership:
    """The right to serve the queue of this host.

    :param transport: the way to the broker
    :ivar taken: who serves the queue instead of us, in words; None while nobody is known to
    """

    def __init__(self, transport: Any, identity: Identity) -> None:
        self.taken: str | None = None
        self._transport = transport
        self._identity = identity
        self._queue = queue_of(identity.host)
        self._claimed: Link | None = None
        self._using = threading.Lock()

    def claim(self) -> None:
        """Return when nobody else serves this host's queue, nor can begin to. Waits for the broker.

        :raises QueueTaken: if an agent with another ``host_id`` does, or one that does not answer
        """
        patient_until = None
        told = False
        while True:
            try:
                if self._is_mine():
                    break
            except QueueTaken:
                raise
            except LOST as error:
                if not told:
                    LOG.warning("the broker can't be reached, trying until it can: %s", error)
                told, patient_until = True, None
                notify.status(f"waiting for the broker: {error}")
            else:
                patient_until = patient_until or time.monotonic() + PATIENCE_S
                if time.monotonic() > patient_until:
                    raise QueueTaken(f"queue {self._queue} has a consumer that does not answer")
                notify.status("waiting for another consumer of our queue to go")
            concurrency.sleep(RETRY_S)
        concurrency.spawn(self._keep_alive)

    def connect(self) -> Link:
        """Return a connection that holds the lock, and holds it as long as it lasts.

        :raises QueueTaken: if an agent with another ``host_id`` has it
        :raises QueueLocked: if somebody has it
        :raises LOST: if the broker can't be reached
        """
        with self._using:
            link, self._claimed = self._claimed, None
        return link or self._lock()

    def close(self) -> None:
        """Give up a claim that nobody has made use of."""
        with self._using:
            link, self._claimed = self._claimed, None
        if link is not None:
            link.close()

    def _is_mine(self) -> bool:
        """Take the lock, and look for those who consume without one: older releases do."""
        if self._claimed is None:
            try:
                self._claimed = self._lock()
            except QueueTaken:
                raise
            except QueueLocked:
                return False
        if not count_consumers(self._transport, self._queue):
            return True
        self._refuse_a_stranger()
        return False

    def _lock(self) -> Link:
        link = Link(self._transport)
        try:
            link.channel.queue_declare(f"{self._queue}:owner", exclusive=True, auto_delete=False)
        except amqp.exceptions.ResourceLocked:
            link.close()
            if count_consumers(self._transport, self._queue):
                self._refuse_a_stranger()
            raise QueueLocked(f"another connection has queue {self._queue}, and is not known") from None
        except BaseException:
            link.discard()
            raise
        if self.taken is not None:
            LOG.info("queue %s is ours again", self._queue)
        self.taken = None
        return link

    def _refuse_a_stranger(self) -> None:
        """Ask who serves the queue.

        :raises QueueTaken: if it is an agent with another ``host_id``
        """
        other = _who_serves(self._identity.host)
        if other is None or other == self._identity.host_id:
            return
        message = (
            f"queue {self._queue} is served by the agent with host_id {other}: "
            "two hosts must not have the same [DEFAULT] host"
        )
        if message != self.taken:
            LOG.error("%s", message)
        self.taken = message
        raise QueueTaken(message)

    def _keep_alive(self) -> None:
        """Keep the claim until it is made use of; a start may take longer than a heartbeat."""
        while True:
            with self._using:
                link = self._claimed
                if link is None:
                    return
                try:
                    with contextlib.suppress(TimeoutError):
                        link.read(FRAME_S)
                    link.heartbeat()
                except LOST as error:
                    LOG.warning("the claim to queue %s was lost, it is made again: %s", self._queue, error)
                    link.discard()
                    self._claimed = None
                    return
            concurrency.sleep(min(link.heartbeat_interval_s, 1.0))


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

# SPDX-License-Identifier: Apache-2.0
"""Sends messages, each confirmed by the broker, over a connection of its own.

oslo.messaging's pool of connections is not used: during an outage a connection of it may be held by
its heartbeat, which reconnects without an end, and whoever wants to send then waits for as long and
can't be woken. Here an attempt either succeeds or fails, within its time.

Invariants: messages of one sender go out in the order of the calls; after an attempt that failed in
whatever way the connection is given up, so that no confirmation is ever taken for another's; nothing
but :meth:`Sender.close` is needed to unblock whoever sends.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import amqp.exceptions
from oslo_messaging import MessageDeliveryFailure

from compute_agent.rpc.link import LOST, BackOff, Link

LOG = logging.getLogger(__name__)

SEND_TIMEOUT_S = 30.0
"""How long the broker may take to confirm a message, in seconds, when nothing else is said."""
DRAIN_TIMEOUT_S = 0.001


class Unroutable(Exception):
    """There is no queue for a message that had to reach one, or not even the exchange."""


class Sender:
    """Sends to the broker that ``transport`` names; connects when there is something to send. Thread-safe.

    :param declares: an exchange that is declared first; others have to be there
    """

    def __init__(self, transport: Any, declares: str | None = None) -> None:
        self._transport = transport
        self._declares = declares
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._line: _Line | None = None
        self._heart: threading.Thread | None = None

    def send(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        expires_after_s: float | None = None,
        timeout: float = SEND_TIMEOUT_S,
    ) -> None:
        """Send a message of JSON and return when the broker has it. One attempt.

        :param exchange: ``""`` for the queue named ``routing_key``
        :param mandatory: it has to reach a queue
        :param expires_after_s: seconds after which the broker may drop it
        :param timeout: seconds for all of it but connecting, which takes its own
        :raises Unroutable: if it is mandatory and reached no queue, or there is no such exchange
        :raises LOST: if it was not confirmed: the broker may have it or not
        """
        deadline = time.monotonic() + timeout
        with self._held(timeout):
            line = self._connected()
            try:
                line.publish(body, exchange, routing_key, mandatory, expires_after_s, deadline)
            except amqp.exceptions.NotFound as error:
                self._drop()
                raise Unroutable(f"there is no exchange {exchange!r}") from error
            except BaseException:
                self._drop()
                raise
        if line.returned is not None:
            raise Unroutable(f"there is no queue for {routing_key!r}: {line.returned}")

    def send_within(self, timeout: float, body: bytes, **details: Any) -> None:
        """Send as :meth:`send` does, trying again while the broker is away, for ``timeout`` seconds.

        The message may arrive more than once.

        :raises Unroutable: see :meth:`send`; it is not tried again
        :raises LOST: if it was not confirmed within ``timeout``
        """
        deadline = time.monotonic() + timeout
        back_off = BackOff(self._transport)
        pause = 0.0  # a connection that was idle may have been lost unnoticed: the first retry is at once
        while True:
            try:
                return self.send(body, timeout=max(deadline - time.monotonic(), DRAIN_TIMEOUT_S), **details)
            except LOST:
                if self._closed.is_set() or time.monotonic() + pause >= deadline:
                    raise
            self._closed.wait(pause)
            pause = back_off.next()

    def connect(self, timeout: float = SEND_TIMEOUT_S) -> None:
        """Connect unless that is done.

        :raises LOST: if it can't be done
        """
        with self._held(timeout):
            self._connected()

    def close(self) -> None:
        """Disconnect. Whoever is sending gets an error, and so does whoever tries to, from now on."""
        self._closed.set()
        line = self._line
        if line is None:
            return
        if self._lock.acquire(blocking=False):
            self._line = None
            self._lock.release()
            line.link.close()
        else:
            line.link.abort()

    @contextlib.contextmanager
    def _held(self, timeout: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=timeout):
            raise TimeoutError("earlier messages still wait for the broker")
        try:
            if self._closed.is_set():
                raise MessageDeliveryFailure("the sender is closed")
            yield
        finally:
            self._lock.release()

    def _connected(self) -> "_Line":
        if self._line is None:
            self._line = _Line(Link(self._transport), self._declares)
            if self._heart is None:
                interval = self._line.link.heartbeat_interval_s
                self._heart = threading.Thread(
                    target=self._beat, args=(interval,), name="sender", daemon=True
                )
                self._heart.start()
        return self._line

    def _drop(self) -> None:
        if self._line is not None:
            self._line.link.discard()
            self._line = None

    def _beat(self, interval: float) -> None:
        while not self._closed.wait(interval):
            with self._lock:
                if self._line is not None:
                    self._breathe(self._line.link)

    def _breathe(self, link: Link) -> None:
        """Send a heartbeat if it is time, and take what the broker has sent (heartbeats, too)."""
        try:
            link.heartbeat()
            with contextlib.suppress(TimeoutError):
                while True:
                    link.read(DRAIN_TIMEOUT_S)
        except LOST as error:
            LOG.debug("an idle connection to the broker was lost: %s", error)
            self._drop()


class _Line:
    """A link, and what is known of the message on its way. One message at a time."""

    def __init__(self, link: Link, declares: str | None) -> None:
        self.link = link
        self.returned: Exception | None = None
        self._sent = 0
        self._confirmed = 0
        self._refused = False
        try:
            if declares:
                link.declare_exchange(declares)
            link.confirm(self._on_confirmed, self._on_refused, self._on_returned)
        except BaseException:
            link.close()
            raise

    def publish(
        self,
        body: bytes,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        expires_after_s: float | None,
        deadline: float,
    ) -> None:
        """Send a message and wait until the broker has it.

        :param deadline: of :func:`time.monotonic`
        :raises LOST: if it was not confirmed by then
        """
        self.returned = None
        self._sent += 1
        self.link.publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=mandatory,
            expires_after_s=expires_after_s,
            timeout=max(deadline - time.monotonic(), DRAIN_TIMEOUT_S),
        )
        while self._confirmed < self._sent:
            self._read(deadline)
        if self._refused:
            raise MessageDeliveryFailure("the broker could not keep the message")

    def _read(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the broker has not confirmed the message")
        self.link.heartbeat()
        with contextlib.suppress(TimeoutError):
            self.link.read(min(left, self.link.heartbeat_interval_s))

    def _on_confirmed(self, number: int, _all_before: bool) -> None:
        self._confirmed = max(self._confirmed, number)

    def _on_refused(self, number: int, all_before: bool) -> None:
        self._refused = True
        self._on_confirmed(number, all_before)

    def _on_returned(self, reason: Exception, _exchange: str, _routing_key: str, _message: Any) -> None:
        self.returned = reason

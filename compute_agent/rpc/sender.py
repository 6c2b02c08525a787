# SPDX-License-Identifier: Apache-2.0
"""Sends messages, confirmed by the broker, over a connection of its own.

oslo.messaging's pool of connections is not used: during an outage a connection of it may be held by
its heartbeat, which reconnects without an end, and whoever wants to send then waits for as long and
can't be woken. Here an attempt either succeeds or fails, within its time.

Invariants: messages of one sender go out in the order of the calls; nothing but :meth:`Sender.close` is
needed to unblock whoever sends. After an attempt that failed the connection is given up. Only one that
the broker has blocked (its disk or memory is almost full) is kept, and nothing more is put into it: the
broker would not even see it closed, and an agent that goes on connecting is the last thing it needs.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
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


class Refused(MessageDeliveryFailure):  # type: ignore[misc]
    """The broker could not keep a message: a queue that it was for does not take it."""


class Blocked(TimeoutError):
    """The broker takes no messages from anybody: its disk or its memory is almost full."""

    def __init__(self) -> None:
        super().__init__("the broker takes no messages: its disk or its memory is almost full")


class Incomplete(Exception):
    """Not all messages were confirmed.

    :ivar confirmed: how many of the first ones were
    """

    def __init__(self, confirmed: int, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.confirmed = confirmed


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
        :raises Blocked: if the broker takes no messages right now (one of LOST)
        :raises LOST: if it was not confirmed: the broker may have it or not
        """
        deadline = time.monotonic() + timeout
        with self._held(timeout), self._line_for(exchange) as line:
            line.publish(body, exchange, routing_key, deadline, mandatory, expires_after_s)
            line.wait_confirmed(deadline)
        if line.returned is not None:
            raise Unroutable(f"there is no queue for {routing_key!r}: {line.returned}")

    def send_all(
        self, bodies: Sequence[bytes], *, exchange: str, routing_key: str, timeout: float = SEND_TIMEOUT_S
    ) -> None:
        """Send messages one behind the other and return when the broker has all of them. One attempt.

        The confirmations are waited for together. The broker gets the messages in their order, so
        what it has when the connection breaks are the first of them.

        :raises Incomplete: if not all were confirmed; it says how many of the first ones were
        """
        deadline = time.monotonic() + timeout
        confirmed = 0
        try:
            with self._held(timeout), self._line_for(exchange) as line:
                try:
                    for body in bodies:
                        line.publish(body, exchange, routing_key, deadline)
                    line.wait_confirmed(deadline)
                finally:
                    confirmed = line.first_confirmed(len(bodies))
        except (*LOST, Unroutable) as error:
            raise Incomplete(confirmed, error) from error

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

    @contextlib.contextmanager
    def _line_for(self, exchange: str) -> Iterator["_Line"]:
        """Give the line for an attempt, and give it up if the attempt fails in whatever way."""
        line = self._connected()
        try:
            line.begin()
            yield line
        except Blocked:
            raise
        except amqp.exceptions.NotFound as error:
            self._drop()
            raise Unroutable(f"there is no exchange {exchange!r}") from error
        except BaseException:
            self._drop()
            raise

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
    """A link, and what is known of the messages on their way."""

    def __init__(self, link: Link, declares: str | None) -> None:
        self.link = link
        self.returned: Exception | None = None
        self._routing_key = ""
        self._sent = 0
        self._first = 0
        self._unconfirmed: set[int] = set()
        self._refused: set[int] = set()
        try:
            if declares:
                link.declare_exchange(declares)
            link.confirm(self._on_confirmed, self._on_refused, self._on_returned)
        except BaseException:
            link.close()
            raise

    def begin(self) -> None:
        """Begin an attempt: nothing of it is on its way, nothing has come back.

        :raises Blocked: if the broker still is
        :raises LOST: if the connection was lost meanwhile
        """
        self.returned = None
        self._first = self._sent
        self._unconfirmed.clear()
        self._refused.clear()
        if self.link.blocked:
            with contextlib.suppress(TimeoutError):
                while self.link.blocked:
                    self.link.read(DRAIN_TIMEOUT_S)
            self._check_blocked()

    def publish(
        self,
        body: bytes,
        exchange: str,
        routing_key: str,
        deadline: float,
        mandatory: bool = False,
        expires_after_s: float | None = None,
    ) -> None:
        """Send a message.

        :param deadline: of :func:`time.monotonic`
        :raises LOST: if it could not be sent by then
        """
        self._routing_key = routing_key
        self._sent += 1
        self._unconfirmed.add(self._sent)
        self.link.publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=mandatory,
            expires_after_s=expires_after_s,
            timeout=max(deadline - time.monotonic(), DRAIN_TIMEOUT_S),
        )

    def wait_confirmed(self, deadline: float) -> None:
        """Wait until the broker has everything that was sent.

        :param deadline: of :func:`time.monotonic`
        :raises Blocked: as soon as the broker says so
        :raises Refused: if it refused one
        :raises LOST: if it was not confirmed by then
        """
        while self._unconfirmed and not self._refused:
            self._read(deadline)
            if self._unconfirmed:
                self._check_blocked()
        if self._refused:
            raise Refused("the broker could not keep the message")

    def first_confirmed(self, number: int) -> int:
        """Return how many of the attempt's first messages were confirmed, of ``number``."""
        missing = self._unconfirmed | self._refused | {self._sent + 1}
        return min(min(missing) - self._first - 1, number)

    def _check_blocked(self) -> None:
        if self.link.blocked:
            raise Blocked

    def _read(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the broker has not confirmed the message")
        self.link.heartbeat()
        with contextlib.suppress(TimeoutError):
            self.link.read(min(left, self.link.heartbeat_interval_s))

    def _on_confirmed(self, number: int, all_before: bool) -> None:
        self._unconfirmed -= self._told(number, all_before)

    def _on_refused(self, number: int, all_before: bool) -> None:
        refused = self._told(number, all_before)
        self._unconfirmed -= refused
        self._refused |= refused

    def _told(self, number: int, all_before: bool) -> set[int]:
        """Return which of the attempt's messages an answer is about; those of an earlier one don't matter."""
        if all_before:
            return {one for one in self._unconfirmed if one <= number}
        return {number} if number > self._first else set()

    def _on_returned(self, reason: Exception, _exchange: str, routing_key: str, _message: Any) -> None:
        if routing_key == self._routing_key:  # else it is one of an earlier attempt that was blocked
            self.returned = reason

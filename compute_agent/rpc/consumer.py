# SPDX-License-Identifier: Apache-2.0
"""Takes messages off the agent's queue, raw, and acknowledges them when it is told to.

oslo.messaging's own listeners are not used. They decode each message and reject what is not JSON,
drop a repeated ``_unique_id`` without acknowledging it, and hold acknowledgements until their next
poll, up to five seconds later. The loop here owns one connection, hands over whatever has arrived
since it last looked (so that batches grow by themselves while a commit lasts), and is woken by a
socket pair when another thread acknowledges, pauses or stops: an idle agent does not poll, and
no acknowledgement waits.

Invariants:

- Every message that the broker delivers reaches ``on_batch``, whatever it is made of.
- What was not acknowledged when a connection ends comes again; acknowledging it then does nothing.
- All use of a connection is in the consumer's own thread.
- A lost connection, a cancelled consumer and a deleted queue are one case: connect anew, declare
  anew. One line in the log per outage.
- A deleted exchange or binding is told to nobody, and senders would get "no such host" from then on: what
  was declared is declared again every :data:`DECLARE_INTERVAL_S`.
"""

import collections
import contextlib
import enum
import functools
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from compute_agent.rpc.link import LOST, BackOff, Link
from compute_agent.rpc.names import EXCHANGE, MIB, TOPIC

__all__ = ["LOST", "Consumer", "OnBatch", "RawMessage", "Verdict", "count_consumers"]

LOG = logging.getLogger(__name__)

BATCH_BYTES = 16 * MIB
"""A batch ends when its messages have this size together, so that large ones are not heaped up."""
FRAME_TIMEOUT_S = 1.0
"""How long to wait for the rest of a frame whose beginning is there, in seconds."""
DECLARE_INTERVAL_S = 30.0
"""How often the exchange, the queue and its binding are made sure of, in seconds."""
AFTER_ERROR_S = 1.0
"""Pause before a batch whose handler failed is put back on the queue, in seconds."""


class Verdict(enum.Enum):
    """What becomes of a delivered message."""

    ACK = "ack"
    REQUEUE = "requeue"


class RawMessage:
    """A message as it came: nothing of it is decoded or checked.

    :ivar body: its bytes
    :ivar content_type: as the sender states it, or None
    :ivar content_encoding: as the sender states it, or None
    :ivar headers: its AMQP headers
    :ivar redelivered: True when it was delivered before, to whomever
    """

    __slots__ = ("_settle", "body", "content_encoding", "content_type", "headers", "redelivered")

    def __init__(self, message: Any, settle: Callable[[Verdict], None]) -> None:
        properties = message.properties
        self.body: bytes | memoryview = _as_bytes(message.body)
        self.content_type: str | None = properties.get("content_type")
        self.content_encoding: str | None = properties.get("content_encoding")
        self.headers: dict[str, Any] = properties.get("application_headers") or {}
        self.redelivered: bool = bool(message.delivery_info["redelivered"])
        self._settle = settle

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body)

    def ack(self) -> None:
        """Let the broker forget it. The first of :meth:`ack` and :meth:`requeue` counts; any thread."""
        self._settle(Verdict.ACK)

    def requeue(self) -> None:
        """Put it back on the queue; it comes again at once. Any thread."""
        self._settle(Verdict.REQUEUE)


OnBatch = Callable[[list[RawMessage]], object]


class Consumer:
    """Consumes the queue ``<topic>.<server>`` in a thread of its own.

    :param transport: from :func:`compute_agent.rpc.transport.create_transport`
    :param on_batch: gets at least one message, in the consumer's thread. It settles each, at once or later
    :param batch_size: messages in a batch at most; not above the prefetch count
    :param batch_timeout: seconds to wait for more once there is a message. 0 is best for latency, and for
        throughput too when ``on_batch`` takes its time: meanwhile the next batch gathers
    :ivar connect: makes each connection; whoever replaces it may refuse by an error of LOST
    """

    def __init__(
        self,
        transport: Any,
        *,
        server: str,
        on_batch: OnBatch,
        topic: str = TOPIC,
        exchange: str = EXCHANGE,
        batch_size: int = 64,
        batch_timeout: float = 0.0,
    ) -> None:
        self.queue = f"{topic}.{server}"
        self.exchange = exchange
        self.batch_size = batch_size
        self.batch_timeout = batch_timeout
        self.connect: Callable[[], Link] = functools.partial(Link, transport)
        self._on_batch = on_batch
        self._back_off = BackOff(transport)
        self._alarm = _Alarm()
        self._stopping = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self._connected = threading.Event()
        self._lost_since: float | None = None
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"consumer {self.queue}", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether messages can come right now."""
        return self._connected.is_set()

    @property
    def problem(self) -> str | None:
        """Why it is not connected; None while it is, or while nothing went wrong."""
        return self._problem

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` holds."""
        return not self._running.is_set()

    def start(self) -> None:
        """Begin to consume, now or as soon as the broker can be reached."""
        self._thread.start()

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until messages can come, at most ``timeout`` seconds; return whether they can."""
        return self._connected.wait(timeout)

    def pause(self) -> None:
        """Stop consuming after the batch in progress; what is unacknowledged goes back to the queue."""
        self._running.clear()
        self._alarm.ring()

    def resume(self) -> None:
        """Consume again."""
        self._running.set()

    def stop(self, timeout: float | None = None) -> bool:
        """End it: let the batch in progress finish, send the acknowledgements, disconnect.

        :param timeout: seconds to wait for that; None for as long as it takes
        :return: False when the time ran out first. Even then no further batch begins
        """
        self._stopping.set()
        self._running.set()
        self._alarm.ring()
        if self._thread.ident is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._running.wait()
                self._consume()
        finally:
            self._alarm.close()

    def _consume(self) -> None:
        """Hold one connection for as long as it lasts; afterwards wait if it was lost."""
        try:
            with contextlib.closing(_Session(self)) as session:
                self._found()
                session.run()
                return
        except LOST as error:
            self._lost(error)
        except Exception as error:
            LOG.exception("consuming %s was ended by an unexpected error", self.queue)
            self._lost(error)
        finally:
            self._connected.clear()
        self._stopping.wait(self._back_off.next())

    def _found(self) -> None:
        self._back_off.reset()
        if self._lost_since is not None:
            LOG.info("%s is consumed again after %.1f s", self.queue, time.monotonic() - self._lost_since)
        self._lost_since = self._problem = None
        self._connected.set()

    def _lost(self, error: Exception) -> None:
        self._problem = f"{type(error).__name__}: {error}"
        if self._lost_since is None:
            self._lost_since = time.monotonic()
            LOG.warning("%s can't be consumed, trying until it can: %s", self.queue, self._problem)

    def _interrupted(self) -> bool:
        return self._stopping.is_set() or not self._running.is_set()

    def _handle(self, batch: list[RawMessage]) -> None:
        try:
            self._on_batch(batch)
        except Exception:
            LOG.exception("a batch of %d messages could not be handled, it comes again", len(batch))
            self._stopping.wait(AFTER_ERROR_S)
            for message in batch:
                message.requeue()


class _Session:
    """One connection: its unsettled deliveries, and the verdicts that are not sent yet."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._owner = threading.get_ident()
        self._arrived: collections.deque[RawMessage] = collections.deque()
        self._unsettled: dict[int, None] = {}
        self._verdicts: collections.deque[tuple[int, Verdict]] = collections.deque()
        self._closed = False
        self._link = consumer.connect()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._link.socket, selectors.EVENT_READ)
        self._selector.register(consumer._alarm, selectors.EVENT_READ)
        try:
            self._link.declare_queue(consumer.exchange, consumer.queue)
            self._link.consume(consumer.queue, self._arrive)
        except BaseException:
            self._selector.close()
            self._link.close()
            raise
        self._beat_at = time.monotonic() + self._link.heartbeat_interval_s
        self._declare_at = time.monotonic() + DECLARE_INTERVAL_S
        self._batch_size = min(consumer.batch_size, self._link.prefetch or consumer.batch_size)

    def run(self) -> None:
        """Handle batches until the consumer is told to stop or pause.

        :raises LOST: when the connection is
        """
        consumer = self._consumer
        while not consumer._interrupted():
            batch = self._gather()
            if batch and not consumer._interrupted():
                consumer._handle(batch)
            self._flush()
        consumer._connected.clear()

    def close(self) -> None:
        """Send what can still be sent and disconnect."""
        self._closed = True
        with contextlib.suppress(*LOST):
            self._flush()
        self._selector.close()
        self._link.close()

    def _gather(self) -> list[RawMessage]:
        """Wait for a message, then take those that are there already; none when something else came up."""
        batch: list[RawMessage] = []
        size = 0
        while len(batch) < self._batch_size and size < BATCH_BYTES:
            patience = self._keep_up()
            if not self._arrived and not self._receive(self._consumer.batch_timeout if batch else patience):
                break
            while self._arrived and len(batch) < self._batch_size:
                batch.append(self._arrived.popleft())
                size += batch[-1].size
        return batch

    def _receive(self, timeout: float) -> bool:
        """Wait for a frame and handle it; return False if none came or the alarm did."""
        readable: list[Any] = [self._link.socket]
        if not self._link.has_decrypted():
            readable = [key.fileobj for key, _ in self._selector.select(timeout)]
        rung = self._consumer._alarm.silence()
        if self._link.socket in readable:
            with contextlib.suppress(TimeoutError):
                self._link.read(FRAME_TIMEOUT_S)
        return not rung and bool(readable)

    def _arrive(self, message: Any) -> None:
        tag = message.delivery_info["delivery_tag"]
        self._unsettled[tag] = None
        self._arrived.append(RawMessage(message, lambda verdict: self._settle(tag, verdict)))

    def _settle(self, tag: int, verdict: Verdict) -> None:
        if self._closed:
            return
        self._verdicts.append((tag, verdict))
        if threading.get_ident() != self._owner:
            self._consumer._alarm.ring()

    def _keep_up(self) -> float:
        """Send a heartbeat, and declare anew, if it is time; return the seconds until the next of them."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._link.heartbeat()
            self._beat_at = now + self._link.heartbeat_interval_s
        if now >= self._declare_at:
            self._link.declare_queue(self._consumer.exchange, self._consumer.queue)
            self._declare_at = now + DECLARE_INTERVAL_S
        return min(self._beat_at, self._declare_at) - now

    def _flush(self) -> None:
        """Send the verdicts; acknowledgements of the oldest deliveries go together."""
        acked: set[int] = set()
        while self._verdicts:
            tag, verdict = self._verdicts.popleft()
            if tag not in self._unsettled or tag in acked:
                continue
            if verdict is Verdict.ACK:
                acked.add(tag)
            else:
                del self._unsettled[tag]
                self._link.channel.basic_reject(tag, requeue=True)
        self._acknowledge(acked)

    def _acknowledge(self, tags: set[int]) -> None:
        together = None
        for tag in list(self._unsettled):
            if tag not in tags:
                break
            together = tag
            tags.discard(tag)
            del self._unsettled[tag]
        if together is not None:
            self._link.channel.basic_ack(together, multiple=True)
        for tag in sorted(tags):
            del self._unsettled[tag]
            self._link.channel.basic_ack(tag)


class _Alarm:
    """Wakes a thread that waits in ``select``, from any other."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)

    def fileno(self) -> int:
        """For ``select``."""
        return self._here.fileno()

    def ring(self) -> None:
        """Wake it. Harmless when it is awake, or gone."""
        with contextlib.suppress(OSError):
            self._there.send(b"!")

    def silence(self) -> bool:
        """Return whether it was rung, and forget that."""
        try:
            return bool(self._here.recv(4096))
        except OSError:
            return False

    def close(self) -> None:
        """Release both ends."""
        self._here.close()
        self._there.close()


def count_consumers(transport: Any, queue: str) -> int:
    """Return how many consumers ``queue`` has right now; 0 if it does not exist.

    :raises LOST: if the broker can't be reached
    """
    with contextlib.closing(Link(transport)) as link:
        return link.count_consumers(queue)


def _as_bytes(body: Any) -> bytes | memoryview:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body

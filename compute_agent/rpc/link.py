# SPDX-License-Identifier: Apache-2.0
"""One AMQP connection with one channel, and the only module that knows oslo.messaging's private names.

oslo.messaging turns the operator's settings (hosts, credentials, TLS, heartbeats, queue arguments)
into a connection, and that part is used. Its loops around the connection are not: they decode and
reject before we see a message, hold acknowledgements for up to five seconds, retry without an end
that can be interrupted (sleeping up to thirty seconds), and log every attempt.

Invariants: a link connects once, when it is made, and never again; whoever owns it makes a new one.
Only one thread uses a link at a time; :meth:`Link.abort` may be called from any. No use of a link
waits for ever: a broker that says nothing is an error after :data:`ANSWER_TIMEOUT_S`.
"""

import contextlib
import random
import socket
from collections.abc import Callable
from typing import Any

import amqp
import amqp.exceptions
import amqp.spec
import kombu.entity
import kombu.exceptions
import oslo_messaging
from oslo_config import cfg
from oslo_messaging._drivers import common as driver_common
from oslo_messaging._drivers import impl_rabbit

LOST = (
    OSError,
    amqp.exceptions.AMQPError,
    amqp.exceptions.MessageNacked,
    kombu.exceptions.KombuError,
    oslo_messaging.MessagingException,
)
"""What can come out of a link when the broker is away, hangs, or refuses."""

ANSWER_TIMEOUT_S = 30.0
"""How long a broker may say nothing to a question (open, declare, consume), in seconds."""
CLOSE_TIMEOUT_S = 1.0
"""How long a broker may take to answer the end of a connection, in seconds."""

PERSISTENT = 2
FIRST_PAUSE_S = 0.2
NO_HEARTBEAT_INTERVAL_S = 10.0

# kombu has annotations in some places only, which the type checker then misses in the others.
_entity: Any = kombu.entity

Confirmed = Callable[[int, bool], object]


class _Connection(impl_rabbit.Connection):  # type: ignore[misc]
    """A connection that does not wait for ever for its channel.

    The library limits the time of the handshake, and that of everything after the channel, but not the
    opening of the channel: a broker that hangs just then would hold us until it is gone.
    """

    def ensure_connection(self) -> None:
        retries = self.max_retries
        self.connection.ensure_connection(max_retries=retries, interval_start=0, interval_step=0)
        opened = self.connection.connection
        opened.transport.sock.settimeout(ANSWER_TIMEOUT_S)
        try:
            super().ensure_connection()
        except BaseException:
            opened.collect()  # nobody else would close the socket
            raise


class Link:
    """A connection to the broker that ``transport`` names; each of its hosts is tried once.

    :ivar blocked: True while the broker takes no messages from us: its disk or memory is almost full.
        It says so after the first that it did not take; :meth:`read` hears it
    :raises LOST: if none of them can be reached or lets us in
    """

    def __init__(self, transport: Any) -> None:
        driver = transport._driver
        retries = max(len(driver._url.hosts), 1) - 1
        pool = driver._connection_pool
        self._connection = _Connection(pool.conf, pool.url, driver_common.PURPOSE_LISTEN, retry=retries)
        self.channel = self._connection.channel
        # Otherwise the body is turned into text by whatever character set the sender names.
        self.channel.auto_decode = False
        self._amqp = self.channel.connection
        self.socket = self._amqp.transport.sock
        self.socket.settimeout(ANSWER_TIMEOUT_S)
        self.blocked = False
        self._amqp.on_blocked = self._on_blocked
        self._amqp.on_unblocked = self._on_unblocked

    @property
    def prefetch(self) -> int:
        """How many unacknowledged messages the broker sends at most; 0 for any number."""
        return int(self._connection.rabbit_qos_prefetch_count)

    @property
    def heartbeat_interval_s(self) -> float:
        """How often :meth:`heartbeat` has to be called, in seconds."""
        negotiated = float(self._amqp.heartbeat or 0)
        return negotiated / 4 if negotiated else NO_HEARTBEAT_INTERVAL_S

    def heartbeat(self) -> None:
        """Send a sign of life if one is due.

        :raises LOST: if the broker gave none for two intervals
        """
        self._amqp.heartbeat_tick(rate=2)

    def read(self, timeout: float) -> None:
        """Handle one frame, running the callbacks of what it completes.

        :raises TimeoutError: if none came within ``timeout`` seconds
        """
        self._amqp.blocking_read(timeout)

    def has_decrypted(self) -> bool:
        """Whether TLS holds bytes that the socket no longer shows as readable."""
        pending = getattr(self.socket, "pending", None)
        return bool(pending and pending())

    def declare_exchange(self, name: str) -> None:
        """Declare the topic exchange ``name``."""
        self._exchange(name)(self.channel).declare()

    def declare_queue(self, exchange: str, name: str) -> None:
        """Declare ``exchange`` and the queue ``name``, bound by its name as the routing key."""
        queue = _entity.Queue(
            name=name,
            channel=self.channel,
            exchange=self._exchange(exchange),
            routing_key=name,
            durable=self._connection.durable,
            auto_delete=self._connection.amqp_auto_delete,
            queue_arguments=self._queue_arguments(),
        )
        queue.declare()

    def count_consumers(self, queue: str) -> int:
        """Return how many consumers ``queue`` has; 0 if there is no such queue.

        The channel is closed by the broker in that case, so nothing else can be done with the link.
        """
        try:
            return int(self.channel.queue_declare(queue, passive=True).consumer_count)
        except amqp.exceptions.NotFound:
            return 0

    def consume(self, queue: str, callback: Callable[[Any], object]) -> None:
        """Let the broker send the messages of ``queue``; ``callback`` gets amqp's raw message."""
        self.channel.basic_consume(queue, callback=callback)

    def confirm(self, confirmed: Confirmed, refused: Confirmed, returned: Callable[..., object]) -> None:
        """Have each message confirmed from now on. They are numbered from 1 in the order of publishing.

        :param confirmed: gets the number, and whether all before it are confirmed with it
        :param refused: the same for those that the broker could not keep
        :param returned: gets the reason and the message, when a mandatory one has no queue; its confirmation
            comes all the same
        """
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(confirmed)
        self.channel.events["basic_nack"].add(refused)
        # In place of the library's handler, which raises in the middle of whatever is read.
        self.channel.events["basic_return"] = {returned}

    def publish(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        expires_after_s: float | None,
        timeout: float,
    ) -> None:
        """Send a persistent message of JSON; ``timeout`` in seconds is for writing it.

        The library's own way is not taken: it waits for the confirmation, and loses count when a
        message is returned.
        """
        properties: dict[str, Any] = (
            {"expiration": str(int(expires_after_s * 1000))} if expires_after_s else {}
        )
        message = amqp.Message(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=PERSISTENT,
            **properties,
        )
        arguments = (0, exchange, routing_key, mandatory, False)
        with self._amqp.transport.having_timeout(timeout):
            self.channel.send_method(amqp.spec.Basic.Publish, "Bssbb", arguments, message)

    def close(self) -> None:
        """End the connection in good order, or after a second without it. Raises nothing."""
        with contextlib.suppress(Exception):
            self.socket.settimeout(CLOSE_TIMEOUT_S)
            self._amqp.close()
        self.discard()

    def discard(self) -> None:
        """End the connection without telling the broker. Raises nothing."""
        self.abort()
        with contextlib.suppress(Exception):
            self._amqp.collect()
        with contextlib.suppress(OSError):
            self.socket.close()

    def abort(self) -> None:
        """Cut the connection; whoever waits on it gets an error. May be called from any thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _on_blocked(self, _reason: str) -> None:
        self.blocked = True

    def _on_unblocked(self) -> None:
        self.blocked = False

    def _exchange(self, name: str) -> Any:
        return _entity.Exchange(
            name=name,
            type="topic",
            durable=self._connection.durable,
            auto_delete=self._connection.amqp_auto_delete,
        )

    def _queue_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = impl_rabbit._get_queue_arguments(
            self._connection.rabbit_ha_queues,
            0,
            self._connection.rabbit_quorum_queue,
            self._connection.rabbit_quorum_queue_config,
            False,
        )
        return arguments


class BackOff:
    """Pauses between attempts to connect: doubling, with jitter, within the operator's limits.

    :param transport: its ``rabbit_interval_max`` and ``kombu_reconnect_splay`` apply
    """

    def __init__(self, transport: Any) -> None:
        options = transport._driver.conf.oslo_messaging_rabbit
        self._longest = float(options.rabbit_interval_max)
        self._splay = float(options.kombu_reconnect_splay)
        self.reset()

    def reset(self) -> None:
        """Begin anew: it went well."""
        self._pause = FIRST_PAUSE_S

    def next(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        pause = min(self._pause, self._longest)
        self._pause = pause * 2
        return pause * random.uniform(0.5, 1.0) + random.uniform(0, self._splay)


class Replies:
    """The reply queue of a client, as oslo.messaging keeps it for a transport."""

    def __init__(self, transport: Any) -> None:
        self._driver = transport._driver

    def queue(self) -> str:
        """Return the name of the reply queue, made when it is first asked for."""
        return str(self._driver._get_reply_q())

    @contextlib.contextmanager
    def expected(self, msg_id: str) -> Any:
        """Keep the reply to ``msg_id`` for as long as this lasts."""
        self._driver._waiter.listen(msg_id)
        try:
            yield
        finally:
            self._driver._waiter.unlisten(msg_id)

    def wait(self, msg_id: str, timeout: float) -> Any:
        """Return the reply to ``msg_id``: its result, or an exception object.

        :raises oslo_messaging.MessagingTimeout: if none came within ``timeout`` seconds
        """
        return self._driver._waiter.wait(msg_id, timeout, None, self.queue())


def set_rabbit_defaults(**defaults: Any) -> None:
    """Change defaults of ``[oslo_messaging_rabbit]`` for this process; what an operator sets still wins."""
    cfg.set_defaults(impl_rabbit.rabbit_opts, **defaults)


def hosts(transport: Any) -> tuple[str, list[str], str]:
    """Return the scheme, the hosts (``host:port``) and the virtual host of ``transport``."""
    url = transport._driver._url
    names = [f"{host.hostname or 'localhost'}:{host.port or 5672}" for host in url.hosts]
    return url.transport, names or ["localhost:5672"], url.virtual_host or "/"

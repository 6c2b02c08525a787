# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy between an agent and its broker, which does to the connections what networks do.

It cuts them, stalls them in one direction or both, lets the other side vanish without a word (half-open),
slows them down, and refuses new ones. Plain threads: one that accepts, two for each connection.
Invariants: what it forwards is neither changed nor reordered; what has been read while a direction is
stalled is forwarded when it flows again; closed, it leaves no thread and no socket.
"""

from __future__ import annotations

import contextlib
import enum
import re
import socket
import struct
import threading
import time
from typing import Self

from tests.rig import ports
from tests.rig.part import Part

_LOOPBACK = "127.0.0.1"
_CHUNK = 16 * 1024
_JOIN_S = 10.0
_CONNECT_S = 5.0
_ADDRESS = re.compile(r"(?<=@)([^/:]+):(\d+)(?=/)")
#: With this, closing a socket sends RST: the other side hears of it at once, whatever it waits for.
_ABORT = struct.pack("ii", 1, 0)


class Way(enum.Enum):
    """A direction."""

    TO_BROKER = "to the broker"
    TO_CLIENT = "to the client"


BOTH = frozenset(Way)


class Proxy(Part):
    """Stands before the broker of a transport URL; what is to go through it uses its `transport_url`."""

    def __init__(self, transport_url: str) -> None:
        match = _ADDRESS.search(transport_url)
        if match is None:
            raise ValueError(f"not a transport URL of one broker: {transport_url}")
        self.target = (match[1], int(match[2]))
        self.port = ports.free_port()
        self.transport_url = _ADDRESS.sub(f"{_LOOPBACK}:{self.port}", transport_url)
        self.accepted = 0
        self._stalled: frozenset[Way] = frozenset()
        self._rate: int | None = None
        self._change = threading.Condition()
        self._pairs: list[_Pair] = []
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    def start(self) -> Self:
        """Listen and forward."""
        self.accept()
        return self

    # --- what networks do ----------------------------------------------------------------------------------

    def flow(self) -> None:
        """Let everything pass again, and new connections in. What has vanished stays so."""
        with self._change:
            self._stalled, self._rate = frozenset(), None
            self._change.notify_all()
        self.accept()

    def cut(self) -> None:
        """Reset every connection, at both ends."""
        for pair in self._taken():
            pair.close()

    def refuse(self) -> None:
        """Listen no longer: new connections are refused."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self._acceptor is not None:
            self._acceptor.join(_JOIN_S)
            self._acceptor = None

    def accept(self) -> None:
        """Listen again."""
        if self._listener is None:
            self._listener = socket.create_server((_LOOPBACK, self.port), backlog=64)
            self._acceptor = threading.Thread(
                target=self._run, args=(self._listener,), daemon=True, name="proxy"
            )
            self._acceptor.start()

    def stall(self, ways: frozenset[Way] | set[Way] = BOTH) -> None:
        """Forward nothing in these directions; connections, also new ones, stay open."""
        with self._change:
            self._stalled = frozenset(ways)
            self._change.notify_all()

    def vanish(self) -> None:
        """Each end of every connection that there is loses the other without hearing of it."""
        with self._change:
            for pair in self._pairs:
                pair.vanished = True

    def slow(self, bytes_per_s: int) -> None:
        """Forward no faster, in each direction of each connection."""
        with self._change:
            self._rate = bytes_per_s
            self._change.notify_all()

    # --- how it does it ------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many connections it forwards right now."""
        with self._change:
            return sum(not (pair.closed or pair.vanished) for pair in self._pairs)

    def _run(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                broker = socket.create_connection(self.target, _CONNECT_S)
            except OSError:
                _abort(client)
                continue
            broker.settimeout(None)
            self._begin(_Pair(self, client, broker))

    def _begin(self, pair: _Pair) -> None:
        with self._change:
            self._pairs = [one for one in self._pairs if not one.closed]
            self._pairs.append(pair)
        pair.start()

    def _taken(self) -> list[_Pair]:
        with self._change:
            taken, self._pairs = self._pairs, []
            return taken

    def wait_flowing(self, pair: _Pair, way: Way) -> None:
        """Wait as long as a direction is stalled (or its connection lasts)."""
        with self._change:
            self._change.wait_for(lambda: pair.closed or way not in self._stalled)

    def brake(self, pair: _Pair, sent: int, began: float) -> None:
        """Wait until the bytes that were sent are due, by the rate."""
        with self._change:
            while self._rate is not None and not pair.closed:
                left = began + sent / self._rate - time.monotonic()
                if left <= 0:
                    return
                self._change.wait(left)

    @property
    def chunk(self) -> int:
        """How many bytes to forward at once: a tenth of a second's at most."""
        return _CHUNK if self._rate is None else max(1, min(_CHUNK, self._rate // 10))

    def closed(self) -> None:
        """Told when a connection ends: whoever waits on its behalf looks again."""
        with self._change:
            self._change.notify_all()

    def ensure(self) -> None:
        """Let everything pass."""
        if self._listener is not None or self._pairs:
            self.flow()

    def close(self) -> None:
        """End it, and all connections."""
        self.refuse()
        self.cut()

    def evidence(self) -> str:
        """How it stands."""
        stalled = ", ".join(way.value for way in self._stalled) or "nothing"
        listens = "listens" if self._listener else "refuses"
        return (
            f"--- proxy {self.port}: {listens}, {self.connections} connections of {self.accepted}, "
            f"stalled: {stalled}, rate: {self._rate}"
        )


class _Pair:
    """A client's connection and the one to the broker that goes with it."""

    def __init__(self, proxy: Proxy, client: socket.socket, broker: socket.socket) -> None:
        self.vanished = False
        self.closed = False
        self._proxy = proxy
        self._sockets = (client, broker)
        self._threads = [
            threading.Thread(target=self._pump, args=(client, broker, Way.TO_BROKER), daemon=True),
            threading.Thread(target=self._pump, args=(broker, client, Way.TO_CLIENT), daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        try:
            while data := source.recv(_CHUNK):
                while data and not self.vanished:
                    data = self._forward(data, sink, way)
        except OSError:
            pass
        self._proxy.wait_flowing(self, way)
        if not self.vanished:
            self._end()

    def _forward(self, data: bytes, sink: socket.socket, way: Way) -> bytes:
        """Forward the first of the bytes; what is left."""
        self._proxy.wait_flowing(self, way)
        if self.vanished:
            return b""
        began, length = time.monotonic(), self._proxy.chunk
        sink.sendall(data[:length])
        self._proxy.brake(self, min(length, len(data)), began)
        return data[length:]

    def _end(self) -> None:
        self.closed = True
        for one in self._sockets:
            _abort(one)
        self._proxy.closed()

    def close(self) -> None:
        """Reset both ends and wait for the threads."""
        self._end()
        for thread in self._threads:
            if thread.ident is not None:  # else it is about to start, and to end at once
                thread.join(_JOIN_S)


def _abort(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()

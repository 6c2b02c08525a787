# SPDX-License-Identifier: Apache-2.0
"""Proxy: what it does to connections, seen from both ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.rig.process import wait_until
from tests.rig.proxy import Proxy, Way

PATIENCE_S = 20.0
SILENCE_S = 0.3


class Far:
    """The far end: keeps what came, by connection."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"rabbit://guest:guest@127.0.0.1:{self.listener.getsockname()[1]}/"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self.listener.accept()
                one.settimeout(PATIENCE_S)
                self.sockets.append(one)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for one in (self.listener, *self.sockets):
            one.close()


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.close()


@pytest.fixture
def proxy(far: Far, parts: Callable[[Proxy], Proxy]) -> Proxy:
    return parts(Proxy(far.url)).start()


@pytest.fixture
def near(proxy: Proxy, far: Far) -> Iterator[socket.socket]:
    """The near end of a connection whose far end is `far.sockets[0]`."""
    with socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S) as made:
        wait_until(lambda: far.sockets and proxy.connections, PATIENCE_S, "the connection")
        yield made


def silent(end: socket.socket) -> bool:
    """Whether nothing comes, not even an end."""
    end.settimeout(SILENCE_S)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        end.settimeout(PATIENCE_S)
    return False


def test_bytes_pass_both_ways_and_an_end_passes_too(near: socket.socket, far: Far) -> None:
    near.sendall(b"there")
    assert far.sockets[0].recv(10) == b"there"
    far.sockets[0].sendall(b"back")
    assert near.recv(10) == b"back"
    far.sockets[0].close()
    with contextlib.suppress(ConnectionResetError):
        assert near.recv(1) == b""


def test_a_cut_is_heard_at_both_ends(near: socket.socket, far: Far, proxy: Proxy) -> None:
    proxy.cut()
    assert not silent(near) and not silent(far.sockets[0])
    assert proxy.connections == 0


def test_a_stall_of_one_direction_leaves_the_other(near: socket.socket, far: Far, proxy: Proxy) -> None:
    proxy.stall({Way.TO_BROKER})
    near.sendall(b"late")
    far.sockets[0].sendall(b"back")
    assert near.recv(10) == b"back"
    assert silent(far.sockets[0])
    proxy.flow()
    assert far.sockets[0].recv(10) == b"late"


def test_who_has_vanished_is_not_heard_of_again(near: socket.socket, far: Far, proxy: Proxy) -> None:
    proxy.vanish()
    near.sendall(b"lost")
    far.sockets[0].close()
    assert silent(near)
    proxy.flow()
    assert silent(near)


def test_a_slow_line_takes_its_time(near: socket.socket, far: Far, proxy: Proxy) -> None:
    proxy.slow(10_000)
    began = time.monotonic()
    near.sendall(b"." * 4000)
    left = 4000
    while left:
        left -= len(far.sockets[0].recv(left))
    assert time.monotonic() - began > 0.2


def test_what_is_refused_can_be_let_in_again(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S)
    proxy.accept()
    socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S).close()

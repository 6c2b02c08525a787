# SPDX-License-Identifier: Apache-2.0
"""The NBD client against a server that says what it should not, or nothing."""

import pathlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from compute_agent.virt.libvirt.coldmigration import nbd
from tests.rig import scratch

HELLO = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)
REPLY = 0x3E889045565A9
INFO = struct.pack(">QIII", REPLY, 7, 3, 12) + struct.pack(">HQH", 0, 4096, 1)
ACK = struct.pack(">QIII", REPLY, 7, 1, 0)


@pytest.fixture
def place() -> Iterator[pathlib.Path]:
    directory = scratch.make()
    yield directory / "s"
    scratch.remove(directory)


def _serve(place: pathlib.Path, talk: Callable[[socket.socket], None]) -> None:
    """Serve one client with `talk`, which may be cut off."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(place))
    listening.listen(1)

    def run() -> None:
        with listening, listening.accept()[0] as client:
            client.settimeout(30)
            try:
                talk(client)
            except OSError:
                return

    threading.Thread(target=run, daemon=True).start()


def _welcome(client: socket.socket, answers: bytes = INFO + ACK) -> None:
    client.sendall(HELLO)
    client.recv(4, socket.MSG_WAITALL)
    client.recv(22, socket.MSG_WAITALL)
    client.sendall(answers)


def _answer(number: int, data: bytes = b"", magic: int = 0x67446698) -> Callable[[socket.socket], None]:
    def talk(client: socket.socket) -> None:
        _welcome(client)
        asked = client.recv(28, socket.MSG_WAITALL)
        cookie = asked[8:16]
        client.sendall(struct.pack(">II", magic, number) + cookie + data)
        client.recv(28, socket.MSG_WAITALL)

    return talk


def test_it_reads_what_is_there(place: pathlib.Path) -> None:
    _serve(place, _answer(0, b"x" * 512))
    client = nbd.Client(str(place), 30)
    assert client.size == 4096 and client.read(0, 512) == b"x" * 512
    client.close()
    client.close()  # harmless


def test_an_error_is_a_number(place: pathlib.Path) -> None:
    _serve(place, _answer(28))
    client = nbd.Client(str(place), 30)
    with pytest.raises(nbd.Refused) as refused:
        client.flush()
    assert refused.value.number == 28
    client.close()


@pytest.mark.parametrize(
    "talk",
    [
        lambda client: client.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda client: client.close(),
        lambda client: _welcome(client, struct.pack(">QIII", REPLY, 7, 2**31 + 6, 0)),
        lambda client: _welcome(client, struct.pack(">QIII", 1, 7, 3, 0)),
        lambda client: _welcome(client, struct.pack(">QIII", REPLY, 7, 3, 2**31)),
        lambda client: _welcome(client, ACK),
    ],
    ids=["another protocol", "gone", "no such export", "another reply", "too much", "no size"],
)
def test_who_is_no_server_is_told_from_one(
    place: pathlib.Path, talk: Callable[[socket.socket], None]
) -> None:
    _serve(place, talk)
    with pytest.raises(nbd.Broken):
        nbd.Client(str(place), 30)


@pytest.mark.parametrize("talk", [_answer(0, magic=1), _welcome], ids=["another reply", "gone"])
def test_a_server_that_breaks_off_is_of_no_use(
    place: pathlib.Path, talk: Callable[[socket.socket], None]
) -> None:
    _serve(place, talk)
    client = nbd.Client(str(place), 30)
    with pytest.raises(nbd.Broken):
        client.flush()
    client.close()


def test_a_server_that_hangs_is_not_waited_for_without_end(place: pathlib.Path) -> None:
    held = threading.Event()
    _serve(place, lambda client: (_welcome(client), held.wait(60))[0])
    client = nbd.Client(str(place), 0.2)
    with pytest.raises(nbd.Broken):
        client.flush()
    held.set()
    client.close()


def test_nobody_there_is_told(place: pathlib.Path) -> None:
    with pytest.raises(nbd.Broken):
        nbd.Client(str(place), 1)

# SPDX-License-Identifier: Apache-2.0
"""Ping, without the program: echo requests at a fixed pace, and how long the answers stayed out.

Needs root (a raw socket). The pace does not wait for answers, so the longest silence is known to within one
interval.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import select
import socket
import struct
import threading
import time
from typing import Self

from tests.rig.process import RigError, wait_until

_REQUEST, _REPLY = 8, 0
_HEAD = struct.Struct("!BBHHH")
_LONGEST_WAIT_S = 0.005


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answered request: its number, when it was sent and when the answer came (monotonic seconds)."""

    number: int
    sent: float
    came: float


class Pinger:
    """Pings an address every `interval` seconds from entering a `with` block until its end."""

    def __init__(self, address: str, interval: float = 0.01) -> None:
        self.address = address
        self.interval = interval
        self.answers: list[Answer] = []
        self._identity = struct.unpack("!H", os.urandom(2))[0]
        self._sent: dict[int, tuple[int, float]] = {}
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"ping {address}")
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        except PermissionError as error:
            raise RigError("a raw socket is needed to ping: run it as root") from error
        self._socket.connect((address, 0))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._socket.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= due:
                self._send(now)
                due = max(due + self.interval, now)
            readable, _, _ = select.select([self._socket], [], [], min(_LONGEST_WAIT_S, max(0, due - now)))
            if readable:
                self._receive()

    def _send(self, now: float) -> None:
        number = next(self._numbers)
        short = number & 0xFFFF
        self._sent[short] = number, now
        head = _HEAD.pack(_REQUEST, 0, 0, self._identity, short)
        packet = _HEAD.pack(_REQUEST, 0, _checksum(head), self._identity, short)
        with contextlib.suppress(OSError):  # nobody knows the way just now
            self._socket.send(packet)

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            packet = self._socket.recv(2048)
            body = packet[(packet[0] & 0x0F) * 4 :]
            kind, _code, _sum, identity, short = _HEAD.unpack_from(body)
            if kind == _REPLY and identity == self._identity and short in self._sent:
                number, sent = self._sent.pop(short)
                self.answers.append(Answer(number, sent, time.monotonic()))

    def wait_answer(self, timeout: float = 60.0) -> None:
        """Wait for an answer to come from now on."""
        before = len(self.answers)
        wait_until(lambda: len(self.answers) > before, timeout, f"an answer of {self.address}")

    def wait_silence(self, seconds: float = 1.0, timeout: float = 60.0) -> None:
        """Wait until no answer has come for so long."""
        began = time.monotonic()
        wait_until(lambda: self._silent_since(began) >= seconds, timeout, f"the silence of {self.address}")

    def _silent_since(self, began: float) -> float:
        return time.monotonic() - max(began, self.answers[-1].came if self.answers else began)

    def longest_silence(self) -> float:
        """The longest time between two answers, in seconds beyond the interval; infinite without two."""
        came = [answer.came for answer in list(self.answers)]
        if len(came) < 2:
            return float("inf")
        return max(0.0, max(b - a for a, b in itertools.pairwise(came)) - self.interval)


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def answers(address: str, timeout: float = 60.0) -> bool:
    """Whether an address answers a ping within so many seconds."""
    with Pinger(address, 0.1) as pinger:
        try:
            pinger.wait_answer(timeout)
        except RigError:
            return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""Free TCP ports.

They are taken from below the range that the kernel gives to outgoing connections: a server that is
killed and started again on its port must not find a client of its own former self there. A port is
handed out once per process.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket

_FIRST = 15_000
_LAST = 32_000
_ATTEMPTS = 500

_given: set[int] = set()
_random = random.Random(os.urandom(8))


def _is_free(port: int, address: str) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_port(address: str = "127.0.0.1") -> int:
    """A port on which nothing listens at `address`. Raises OSError if none is found."""
    for _ in range(_ATTEMPTS):
        port = _random.randrange(_FIRST, _LAST)
        if port not in _given and _is_free(port, address):
            _given.add(port)
            return port
    raise OSError(f"no free port at {address} between {_FIRST} and {_LAST}")

# SPDX-License-Identifier: Apache-2.0
"""Telling systemd how the service is (``sd_notify``).

oslo.service would say READY as soon as the process is up. The agent is ready when it has
compared states and consumes, so it takes the socket's address away at start and speaks itself.
"""

import os
import socket
from contextlib import suppress

_address: list[str] = []


def take_over() -> None:
    """Take the socket's address out of the environment, before anybody else uses it."""
    address = os.environ.pop("NOTIFY_SOCKET", None)
    if address:
        _address[:] = [address]


def tell(*lines: str) -> None:
    """Send ``lines`` such as ``READY=1``; nothing happens without systemd."""
    if not _address:
        return
    address = _address[0]
    if address.startswith("@"):
        address = "\0" + address[1:]
    # Whoever started us may no longer listen.
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as endpoint, suppress(OSError):
        endpoint.sendto("\n".join(lines).encode(), address)


def status(text: str) -> None:
    """Show ``text`` in ``systemctl status``."""
    tell(f"STATUS={text}")


def watchdog_interval_s() -> float | None:
    """Return how often systemd wants a sign of life, in seconds; None if it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 / 2 if microseconds.isdigit() else None

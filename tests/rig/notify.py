# SPDX-License-Identifier: Apache-2.0
"""The service manager's end of `NOTIFY_SOCKET`: a socket that hears what a daemon tells systemd.

Invariant: messages are kept in the order of their arrival, and a datagram's assignments are seen together.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
from typing import Self

from tests.rig.process import wait_until

_DATAGRAM_BYTES = 65536


class NotifySocket:
    """Listens at `path` until it is closed. `messages` holds every assignment heard, as (name, value)."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.messages: list[tuple[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="notify")
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                datagram = self._socket.recv(_DATAGRAM_BYTES)
            except OSError:
                return
            if not datagram:
                return
            lines = datagram.decode(errors="replace").splitlines()
            self.messages += [(name, value) for name, _, value in (line.partition("=") for line in lines)]

    def values(self, name: str) -> list[str]:
        """All values that were told under a name, oldest first."""
        return [value for told, value in list(self.messages) if told == name]

    @property
    def ready(self) -> bool:
        """Whether `READY=1` was told since the last `forget`."""
        return "1" in self.values("READY")

    @property
    def status(self) -> str:
        """The last `STATUS`; empty if none was told."""
        return (self.values("STATUS") or [""])[-1]

    def forget(self) -> None:
        """Start over, as for a daemon that is started again."""
        self.messages = []

    def wait_status(self, part: str, timeout: float = 60.0) -> str:
        """The first status that contains `part`."""
        return wait_until(
            lambda: next((status for status in self.values("STATUS") if part in status), None),
            timeout,
            f"a status with {part!r}",
            lambda: f"seen: {self.values('STATUS')}",
        )

    def close(self) -> None:
        """Stop listening and remove the socket."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))  # wakes the listener, which takes the empty datagram for the end
        self._thread.join(timeout=5)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

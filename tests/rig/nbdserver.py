# SPDX-License-Identifier: Apache-2.0
"""Volumes served over NBD by qemu-nbd: one server per volume, which may go away, come back, and grow.

Invariant: nothing of it is left when it is closed.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
from typing import Any, Self

from tests.rig import scratch
from tests.rig.part import Part
from tests.rig.ports import free_port
from tests.rig.process import Process, RigError, Supervisor, tool, wait_until

_READY_S = 30.0
MIB = 2**20


class NbdServer(Part):
    """One volume of `size` bytes.

    unix: serve it on a socket instead of a port. directory: where its file and its socket are.
    """

    def __init__(
        self, size: int = 16 * MIB, *, unix: bool = False, directory: pathlib.Path | None = None
    ) -> None:
        self.scratch = scratch.make(within=directory)
        self.file = self.scratch / "volume"
        self.export = "volume"
        with self.file.open("wb") as file:
            file.truncate(size)
        self.port = None if unix else free_port()
        self.socket = self.scratch / "nbd.sock" if unix else None
        self._supervisor = Supervisor()
        self._process: Process | None = None
        self._started = False

    @property
    def connection_info(self) -> dict[str, Any]:
        """How a volume of it is described to an agent."""
        where: dict[str, Any] = {"host": "127.0.0.1", "port": self.port}
        if self.socket is not None:
            where = {"socket": str(self.socket)}
        return {"driver_volume_type": "nbd", "data": {**where, "export": self.export}}

    def start(self) -> Self:
        """Serve; again on the same port, if it did before."""
        if not self._started:
            self._supervisor.start()
            self._started = True
        place = ["-k", str(self.socket)] if self.socket else ["-b", "127.0.0.1", "-p", str(self.port)]
        command = [tool("qemu-nbd", "qemu-utils"), "--persistent", "--shared=8", "-f", "raw"]
        command += ["--cache=writeback", "-x", self.export, *place, str(self.file)]
        self._process = self._supervisor.run(command, log=self.scratch / "log", cwd=self.scratch)
        wait_until(self._answers, _READY_S, "the NBD server's readiness", self.evidence)
        return self

    def _answers(self) -> bool:
        if self._process is None or not self._process.running:
            raise RigError(f"qemu-nbd ended\n{self.evidence()}")
        kind, address = (
            (socket.AF_UNIX, str(self.socket)) if self.socket else (socket.AF_INET, ("127.0.0.1", self.port))
        )
        with contextlib.closing(socket.socket(kind, socket.SOCK_STREAM)) as probe:
            try:
                probe.connect(address)
            except OSError:
                return False
            return probe.recv(8) == b"NBDMAGIC"

    def stop(self) -> None:
        """Go away, as a server does that crashes."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def extend(self, size: int) -> None:
        """Grow to `size` bytes. Clients are cut off and find the new size when they come back."""
        self.stop()
        with self.file.open("r+b") as file:
            file.truncate(size)
        self.start()

    def contents(self) -> bytes:
        """All that was written to it."""
        return self.file.read_bytes()

    def evidence(self) -> str:
        """What the server said."""
        return self._process.log_text() if self._process else "it is not running"

    def close(self) -> None:
        """End it and remove its file."""
        self.stop()
        if self._started:
            self._supervisor.stop()
        scratch.remove(self.scratch)

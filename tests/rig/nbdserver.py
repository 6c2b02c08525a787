# SPDX-License-Identifier: Apache-2.0
"""Volumes served over NBD by qemu-nbd: one server per volume, which may go away, come back, and grow.

Invariant: nothing of it is left when it is closed.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
from typing import Any, Self

from tests.rig.ports import free_port
from tests.rig.process import tool
from tests.rig.volumeserver import MIB, VolumeServer


class NbdServer(VolumeServer):
    """One volume of `size` bytes.

    unix: serve it on a socket instead of a port. directory: where its file and its socket are. address: of
    this machine, where it is served.
    """

    def __init__(
        self,
        size: int = 16 * MIB,
        *,
        unix: bool = False,
        directory: pathlib.Path | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__(size, directory)
        self.export = "volume"
        self.address = address
        self.port = None if unix else free_port()
        self.socket = self.scratch / "nbd.sock" if unix else None

    @property
    def connection_info(self) -> dict[str, Any]:
        """How a volume of it is described to an agent."""
        where: dict[str, Any] = {"host": self.address, "port": self.port}
        if self.socket is not None:
            where = {"socket": str(self.socket)}
        return {"driver_volume_type": "nbd", "data": {**where, "export": self.export}}

    def start(self) -> Self:
        """Serve; again on the same port, if it did before."""
        place = ["-k", str(self.socket)] if self.socket else ["-b", self.address, "-p", str(self.port)]
        command = [tool("qemu-nbd", "qemu-utils"), "--persistent", "--shared=8", "-f", "raw"]
        command += ["--cache=writeback", "-x", self.export, *place, str(self.file)]
        self._serve(command)
        return self

    def _answers(self) -> bool:
        kind, address = (
            (socket.AF_UNIX, str(self.socket)) if self.socket else (socket.AF_INET, (self.address, self.port))
        )
        with contextlib.closing(socket.socket(kind, socket.SOCK_STREAM)) as probe:
            try:
                probe.connect(address)
            except OSError:
                return False
            return probe.recv(8) == b"NBDMAGIC"

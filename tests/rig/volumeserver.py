# SPDX-License-Identifier: Apache-2.0
"""What the servers of volumes have in common: a file that is served, and a process that may go and come back.

Invariant: nothing of it is left when it is closed.
"""

from __future__ import annotations

import pathlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

from tests.rig import scratch
from tests.rig.part import Part
from tests.rig.process import Process, RigError, Supervisor, wait_until

_READY_S = 30.0
MIB = 2**20


class VolumeServer(Part):
    """A server of one volume of `size` bytes. directory: where its file is."""

    def __init__(self, size: int, directory: pathlib.Path | None = None) -> None:
        self.scratch = scratch.make(within=directory)
        self.file = self.scratch / "volume"
        with self.file.open("wb") as file:
            file.truncate(size)
        self._supervisor = Supervisor()
        self._process: Process | None = None
        self._started = False

    @abstractmethod
    def start(self) -> Self:
        """Serve; again on the same port, if it did before."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether its process, which runs, serves."""

    def _serve(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        if not self._started:
            self._supervisor.start()
            self._started = True
        self._process = self._supervisor.run(command, env=env, log=self.scratch / "log", cwd=self.scratch)
        wait_until(self._is_ready, _READY_S, f"{command[0]} to serve", self.evidence)

    def _is_ready(self) -> bool:
        if self._process is None or not self._process.running:
            raise RigError(f"it ended\n{self.evidence()}")
        return self._answers()

    def stop(self) -> None:
        """Go away, as a server does that crashes."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def extend(self, size: int) -> None:
        """Grow to `size` bytes. Who uses it is cut off, and finds the new size on coming back."""
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

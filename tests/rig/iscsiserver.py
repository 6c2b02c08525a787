# SPDX-License-Identifier: Apache-2.0
"""Volumes served over iSCSI by a tgtd of our own, in user space.

One target with one unit per volume; with a login if a password is given. Invariant: nothing of it is left
when it is closed.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from typing import Any, Self

from tests.rig import scratch
from tests.rig.part import Part
from tests.rig.ports import free_port
from tests.rig.process import Process, RigError, Supervisor, tool, wait_until

_READY_S = 30.0
_PACKAGE = "tgt"
MIB = 2**20


class IscsiServer(Part):
    """A target with one volume of `size` bytes. password: who logs in has to know it (CHAP)."""

    iqn = "iqn.2025-01.org.compute-agent.rig:volume"
    username = "rig"

    def __init__(self, size: int = 16 * MIB, *, password: str | None = None) -> None:
        self.scratch = scratch.make()
        self.file = self.scratch / "volume"
        with self.file.open("wb") as file:
            file.truncate(size)
        self.port = free_port()
        self.password = password
        self._supervisor = Supervisor()
        self._process: Process | None = None
        self._started = False

    @property
    def connection_info(self) -> dict[str, Any]:
        """How the volume is described to an agent."""
        data: dict[str, Any] = {
            "target_portal": f"127.0.0.1:{self.port}",
            "target_iqn": self.iqn,
            "target_lun": 1,
        }
        if self.password is not None:
            data |= {
                "auth_method": "CHAP",
                "auth_username": self.username,
                "auth_password": self.password,
            }
        return {"driver_volume_type": "iscsi", "data": data}

    def start(self) -> Self:
        """Serve; again on the same port, if it did before."""
        if not self._started:
            self._supervisor.start()
            self._started = True
        command = [tool("tgtd", _PACKAGE), "-f", "-C", "0", "--iscsi", f"portal=127.0.0.1:{self.port}"]
        self._process = self._supervisor.run(
            command, env=self._environment, log=self.scratch / "log", cwd=self.scratch
        )
        wait_until(self._answers, _READY_S, "tgtd's readiness", self.evidence)
        self._configure()
        return self

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": str(self.scratch / "tgtd")}

    def _answers(self) -> bool:
        if self._process is None or not self._process.running:
            raise RigError(f"tgtd ended\n{self.evidence()}")
        return self._admin("--op", "show", "--mode", "target").returncode == 0

    def _configure(self) -> None:
        self._do("--op", "new", "--mode", "target", "--tid", "1", "--targetname", self.iqn)
        if self.password is not None:
            login = ["--user", self.username]
            self._do("--op", "new", "--mode", "account", *login, "--password", self.password)
            self._do("--op", "bind", "--mode", "account", "--tid", "1", *login)
        unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"]
        self._do("--op", "new", *unit, "--backing-store", str(self.file))
        self._do("--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL")

    def _admin(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [tool("tgtadm", _PACKAGE), "-C", "0", "--lld", "iscsi", *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=30)

    def _do(self, *arguments: str) -> None:
        done = self._admin(*arguments)
        if done.returncode:
            raise RigError(f"tgtadm {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def stop(self) -> None:
        """Go away, as a server does that crashes."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def extend(self, size: int) -> None:
        """Grow to `size` bytes. Initiators are cut off, and come back by themselves."""
        self.stop()
        with self.file.open("r+b") as file:
            file.truncate(size)
        self.start()

    def contents(self) -> bytes:
        """All that was written to it."""
        return pathlib.Path(self.file).read_bytes()

    def evidence(self) -> str:
        """What the server said."""
        return self._process.log_text() if self._process else "it is not running"

    def close(self) -> None:
        """End it and remove its file."""
        self.stop()
        if self._started:
            self._supervisor.stop()
        scratch.remove(self.scratch)

# SPDX-License-Identifier: Apache-2.0
"""Volumes served over iSCSI by a tgtd of our own, in user space.

One target with one unit per volume; with a login if a password is given. Invariant: nothing of it is left
when it is closed.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any, Self

from tests.rig.ports import free_port
from tests.rig.process import RigError, tool
from tests.rig.volumeserver import MIB, VolumeServer

_PACKAGE = "tgt"


class IscsiServer(VolumeServer):
    """A target with one volume of `size` bytes. password: who logs in has to know it (CHAP)."""

    iqn = "iqn.2025-01.org.compute-agent.rig:volume"
    username = "rig"

    def __init__(self, size: int = 16 * MIB, *, password: str | None = None) -> None:
        super().__init__(size)
        self.port = free_port()
        self.password = password

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
        command = [tool("tgtd", _PACKAGE), "-f", "-C", "0", "--iscsi", f"portal=127.0.0.1:{self.port}"]
        self._serve(command, self._environment)
        self._configure()
        return self

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": str(self.scratch / "tgtd")}

    def _answers(self) -> bool:
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

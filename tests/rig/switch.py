# SPDX-License-Identifier: Apache-2.0
"""The network of a lab: a bridge in a namespace of its own, a cable to each host, one to the test process.

All that the test process's own namespace gets is one end of a veth pair with the lab's address. Its name
holds the lab's number and decides between labs that start at the same time, because the kernel gives a name
once. Invariant: when the last process in the switch's namespace is gone, so are the bridge and every cable,
whatever became of those who made them; nobody has to clean up.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
from collections.abc import Sequence
from typing import Self

from tests.rig.process import RigError, Supervisor, tool, wait_until

#: The names of the test process's ends of the cables: this and the lab's number.
CABLE = "calab"

_NETWORK = "10.77"
_NUMBERS = range(1, 250)
_OWN_HOST_PART = 254
_BRIDGE = "br0"
_GONE_DEADLINE_S = 30.0


class Switch:
    """The bridge and its cables. remove: directories that are deleted when it ends, whoever ended it."""

    def __init__(self, remove: Sequence[pathlib.Path] = ()) -> None:
        self._supervisor = Supervisor(net=True, remove=remove)
        self._ip = tool("ip", "iproute2")
        self._ports: list[str] = []
        self.number = 0

    def start(self) -> Self:
        """Make the bridge and the cable to the test process. Raises RigError without the right to."""
        self._supervisor.start()
        self._in(f"link add {_BRIDGE} type bridge forward_delay 0 mcast_snooping 0")
        self._in(f"link set {_BRIDGE} up")
        self.number = self._plug_in_ourselves()
        self._in(f"link set up0 master {_BRIDGE} up")
        self._here(f"address add {self.address}/24 dev {self.cable}")
        self._here(f"link set {self.cable} up")
        return self

    def _plug_in_ourselves(self) -> int:
        """Take the first number whose cable does not exist yet and whose addresses lead nowhere."""
        told = ""
        for number in _NUMBERS:
            if self._is_routed(number):
                continue
            wanted = f"link add {CABLE}{number} type veth peer name up0 netns {self._supervisor.pid}"
            done = subprocess.run([self._ip, *wanted.split()], capture_output=True, text=True, timeout=30)
            if done.returncode == 0:
                return number
            told = done.stderr
            if "exists" not in told:
                break
        raise RigError(f"no cable for a lab: {told}")

    def _is_routed(self, number: int) -> bool:
        return bool(self._here(f"-4 route show root {_NETWORK}.{number}.0/24").strip())

    @property
    def cable(self) -> str:
        """The device in the test process's own namespace."""
        return f"{CABLE}{self.number}"

    @property
    def address(self) -> str:
        """The address of the test process, and of the broker, in the lab."""
        return self.address_of(_OWN_HOST_PART)

    def address_of(self, part: int) -> str:
        """The address with this last number."""
        return f"{_NETWORK}.{self.number}.{part}"

    def _in(self, arguments: str) -> str:
        return self._supervisor.tell([self._ip, *arguments.split()])

    def _here(self, arguments: str) -> str:
        done = subprocess.run([self._ip, *arguments.split()], capture_output=True, text=True, timeout=30)
        if done.returncode != 0:
            raise RigError(f"ip {arguments} failed: {done.stderr}")
        return done.stdout

    def plug(self, port: str, pid: int, device: str) -> None:
        """Lay a cable from `port` of the switch to a new `device` in the namespace of a process."""
        self._in(f"link add {port} type veth peer name {device} netns {pid}")
        self._in(f"link set {port} master {_BRIDGE} up")
        self._ports.append(port)

    def cut(self, port: str) -> None:
        """Let nothing through a port any more."""
        self._in(f"link set {port} down")

    def mend(self, port: str) -> None:
        """End a `cut`."""
        self._in(f"link set {port} up")

    def divide(self) -> None:
        """Hosts no longer reach each other, but all still reach the broker."""
        self._isolate("on")

    def unite(self) -> None:
        """End a `divide`."""
        self._isolate("off")

    def _isolate(self, state: str) -> None:
        for port in self._ports:
            self._in(f"link set {port} type bridge_slave isolated {state}")

    def ports(self) -> dict[str, bool]:
        """The ports of the switch, and whether each is up."""
        told = self._in(f"-o link show master {_BRIDGE}")
        found = re.findall(r"^\d+: ([^@:]+)[^<]*<([^>]*)>", told, flags=re.M)
        return {name: "UP" in flags.split(",") for name, flags in found}

    def evidence(self) -> str:
        """How its ports are, for a failing test."""
        try:
            return f"--- switch {self.cable} {self.address}: {self.ports()}"
        except RigError as error:
            return f"--- switch {self.cable}: {error}"

    def close(self) -> None:
        """End it; returns when the cable is gone, which the kernel does a moment later."""
        self._supervisor.stop()
        if self.number:
            with contextlib.suppress(RigError):
                wait_until(lambda: self.cable not in cables(), _GONE_DEADLINE_S, f"the end of {self.cable}")


def cables() -> set[str]:
    """The cables of labs that are in the test process's own namespace."""
    names = pathlib.Path("/sys/class/net").iterdir()
    return {path.name for path in names if re.fullmatch(CABLE + r"\d+", path.name)}

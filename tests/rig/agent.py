# SPDX-License-Identifier: Apache-2.0
"""A compute-agent: the real daemon with a configuration, a state directory and a service manager of its own.

It is started, stopped, killed and started again over the same state, as a host's service manager would.
Invariant: when the Agent is closed, its process, what that started, and its scratch directory are gone;
guests are not its business and stay until the hypervisor ends.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import sys
import time
import uuid as uuids
from collections.abc import Mapping, Sequence
from typing import Self

from tests.rig import scratch
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.notify import NotifySocket
from tests.rig.part import Part
from tests.rig.process import Process, RigError, Supervisor, tail, wait_until

Sections = Mapping[str, Mapping[str, object]]

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_READY_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 90.0
_MESSAGING = {
    "rabbit_quorum_queue": True,
    "kombu_reconnect_delay": 0.2,
    "kombu_reconnect_splay": 0,
    "rabbit_retry_interval": 1,
    "rabbit_retry_backoff": 1,
    "rabbit_interval_max": 2,
    "heartbeat_timeout_threshold": 60,
}


@dataclasses.dataclass(frozen=True)
class Stopped:
    """How a stop went: exit status (negative: the signal that ended it) and duration in seconds."""

    code: int
    seconds: float


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).replace("$", "$$") if isinstance(value, pathlib.Path) else str(value)


class Agent(Part):
    """The daemon of one host.

    broker: where it takes its casts from; or `transport_url`. hypervisor: a libvirtd of the rig; without
    one it has the fake driver. host: its name, made up if not given. sections: further configuration, by
    group. command: what to run instead of the daemon, `--config-file F` is put behind it. environment:
    further variables, for each start.

    On a hypervisor that has namespaces of its own the agent runs inside those.
    """

    def __init__(
        self,
        broker: Broker | None = None,
        hypervisor: Hypervisor | None = None,
        *,
        host: str | None = None,
        transport_url: str | None = None,
        sections: Sections | None = None,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if broker is None and transport_url is None:
            raise RigError("an agent needs a broker or a transport_url")
        self.host = host or f"host-{uuids.uuid4().hex[:8]}"
        self.hypervisor = hypervisor
        # What runs on a host of its own is ended, and removed, with that host.
        within = hypervisor.scratch if hypervisor is not None and hypervisor.is_host else None
        self.scratch = scratch.make("ca-a-", within)
        self.state_path = self.scratch / "state"
        self.instances_path = self.scratch / "instances"
        self.config_file = self.scratch / "agent.conf"
        self.log = self.scratch / "agent.log"
        self.environment = dict(environment or {})
        self._command = list(command or [sys.executable, "-m", "compute_agent.cmd.agent"])
        self._transport_url = transport_url or (broker.transport_url if broker else "")
        self._sections: dict[str, dict[str, object]] = {}
        self._process: Process | None = None
        self._supervisor: Supervisor | None = None
        for path in (self.state_path, self.instances_path):
            path.mkdir()
        self.notify = NotifySocket(self.scratch / "notify")
        self.configure(self._defaults())
        self.configure(sections or {})

    def _defaults(self) -> Sections:
        agent: dict[str, object] = {
            "host": self.host,
            "my_ip": "127.0.0.1",
            "state_path": self.state_path,
            "instances_path": self.instances_path,
            "transport_url": self._transport_url,
            "report_interval": 1,
            "graceful_shutdown_timeout": 30,
            "debug": True,
            "log_options": False,
        }
        if self.hypervisor is None:
            return {
                "DEFAULT": agent | {"compute_driver": "fake.FakeDriver"},
                "oslo_messaging_rabbit": _MESSAGING,
            }
        return {
            "DEFAULT": agent | {"compute_driver": "libvirt.LibvirtDriver"},
            "libvirt": {"virt_type": "qemu", "connection_uri": self.hypervisor.uri},
            "images": {"allowed_sources": [f"file://{self.hypervisor.images_path}/"]},
            "oslo_messaging_rabbit": _MESSAGING,
        }

    def configure(self, sections: Sections) -> None:
        """Write further options into the configuration file; None takes an option out."""
        for group, options in sections.items():
            self._sections.setdefault(group, {}).update(options)
        lines = []
        for group, options in self._sections.items():
            lines.append(f"[{group}]")
            lines += [f"{name} = {_as_text(value)}" for name, value in options.items() if value is not None]
        self.config_file.write_text("\n".join(lines) + "\n")

    @property
    def instances_path_inside(self) -> pathlib.Path:
        """Where it keeps its instances, as it sees that itself: on a host of a lab not as from outside."""
        return pathlib.Path(str(self._sections["DEFAULT"]["instances_path"]))

    def _environment(self) -> dict[str, str]:
        base = self.hypervisor.environment if self.hypervisor else dict(os.environ)
        path = os.pathsep.join(filter(None, [str(_ROOT), base.get("PYTHONPATH", "")]))
        ours = {"NOTIFY_SOCKET": str(self.notify.path), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        return base | ours | self.environment

    def _host(self) -> Supervisor:
        """What the daemon runs below: the hypervisor if it is a host of its own, else our own supervisor."""
        if self.hypervisor is not None and self.hypervisor.is_host:
            return self.hypervisor.supervisor
        if self._supervisor is None:
            remove = None if scratch.keep() else self.scratch
            self._supervisor = Supervisor(remove=remove).start()
        return self._supervisor

    def start(self, *, wait: bool = True, timeout: float = _READY_DEADLINE_S) -> Self:
        """Start the daemon and, unless told otherwise, wait for its READY. Raises RigError with its log."""
        if self.running:
            raise RigError(f"the agent of {self.host} runs already")
        self.notify.forget()
        command = [*self._command, "--config-file", str(self.config_file)]
        self._process = self._host().run(command, env=self._environment(), cwd=self.scratch, log=self.log)
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = _READY_DEADLINE_S) -> None:
        """Wait for READY=1. Raises RigError with its log if it ends instead or is late."""
        wait_until(self._ready_or_dead, timeout, f"READY of the agent of {self.host}", self.evidence)
        if not self.notify.ready:
            raise RigError(
                f"the agent of {self.host} ended while it started ({self.returncode})\n{self.evidence()}"
            )

    def _ready_or_dead(self) -> bool:
        return self.notify.ready or not self.running

    @property
    def process(self) -> Process:
        """The daemon's process. Raises RigError if it was never started."""
        if self._process is None:
            raise RigError(f"the agent of {self.host} was never started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self.process.returncode

    @property
    def status(self) -> str:
        """The last STATUS that it told the service manager."""
        return self.notify.status

    def stop(self, timeout: float = _STOP_DEADLINE_S) -> Stopped:
        """SIGTERM, and wait for its end. Raises RigTimeoutError with its log if it goes on."""
        began = time.monotonic()
        code = self.process.terminate(timeout)
        return Stopped(code, time.monotonic() - began)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()

    def wait_end(self, timeout: float = 60.0) -> int:
        """Wait until it has ended by itself; its exit status."""
        return self.process.wait(timeout)

    def restart(self, *, kill: bool = False, wait: bool = True) -> None:
        """Stop (or kill) it and start it over the same state."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start(wait=wait)

    def reload(self) -> None:
        """SIGHUP: it reads its configuration again. Does not wait."""
        self.process.signal(signal.SIGHUP)

    def suspend(self) -> None:
        """Let it hang (SIGSTOP)."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a `suspend`."""
        self.process.signal(signal.SIGCONT)

    def log_text(self) -> str:
        """All that it wrote, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def memory_kib(self) -> int:
        """Its resident memory in KiB."""
        return self._from_status("VmRSS")

    def peak_memory_kib(self) -> int:
        """The highest resident memory it had, in KiB."""
        return self._from_status("VmHWM")

    def threads(self) -> int:
        """How many native threads it has."""
        return self._from_status("Threads")

    def _from_status(self, field: str) -> int:
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(field + ":")).split()[1])

    def open_files(self) -> list[str]:
        """What its file descriptors point at."""
        found = []
        for entry in pathlib.Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(os.readlink(entry))
            except FileNotFoundError:
                continue
        return found

    def evidence(self) -> str:
        """Its state and the end of its log, for a failing test."""
        state = (
            "runs"
            if self.running
            else f"ended ({self._process.returncode if self._process else 'never started'})"
        )
        heading = f"--- agent {self.host}: {state}, status {self.status!r}, {self.scratch}"
        return f"{heading}\n{tail(self.log_text(), 80)}"

    def close(self) -> None:
        """End it at once and remove its files."""
        if self.running:
            self.kill()
        self.notify.close()
        if self._supervisor is not None:
            self._supervisor.stop()
        scratch.remove(self.scratch)

# SPDX-License-Identifier: Apache-2.0
"""A private RabbitMQ node: ours to kill, restart and break.

It has its own ports, its own epmd, its own cookie and its own directory, so that the broker of the
system, if there is one, neither notices nor matters. As root it runs as the user `rabbitmq`, to whom its
directory belongs; anybody else runs it as themselves. Invariant: when the Broker is stopped for good, no
process and no file of it is left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import pwd
import socket
from typing import Self

import amqp

from tests.rig import ports, scratch, sockets, wire
from tests.rig.part import Daemon
from tests.rig.process import (
    Process,
    RigError,
    Supervisor,
    children_of,
    is_alive,
    read_text,
    tail,
    wait_until,
)

_PACKAGE = "rabbitmq-server"
_PROGRAMS = pathlib.Path("/usr/lib/rabbitmq/bin")
_SYSTEM_USER = "rabbitmq"
_READY_DEADLINE_S = 90.0
_STOP_DEADLINE_S = 30.0
_LOOPBACK = "127.0.0.1"
_TEDIOUS = "Running boot step"

#: Little memory, little disk, one scheduler thread per core at most two, no busy waiting.
_ERLANG = "+S 2:2 +SDcpu 1:1 +SDio 2 +sbwt none +sbwtdcpu none +sbwtdio none"

_CONFIGURATION = """\
listeners.tcp.1 = {address}:{port}
loopback_users = none
log.console = false
log.file.level = info
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
collect_statistics_interval = 60000
raft.wal_max_size_bytes = 8388608
"""


class Broker(Daemon):
    """A RabbitMQ node on a free port.

    listen_address: where it listens; another host of the lab needs the address of the bridge.
    """

    def __init__(self, listen_address: str = _LOOPBACK) -> None:
        self.address = listen_address
        self.port = ports.free_port(listen_address)
        self._dist_port = ports.free_port()
        self._epmd_port = ports.free_port()
        self.scratch = scratch.make("ca-mq-")
        self._home = self.scratch / "node"
        self._supervisor = Supervisor(remove=None if scratch.keep() else self.scratch)
        self._process: Process | None = None
        self._numbers = itertools.count()
        self._user = _SYSTEM_USER if os.geteuid() == 0 else None

    @property
    def transport_url(self) -> str:
        """What an agent or a client has as its `transport_url`."""
        return f"rabbit://guest:guest@{self.address}:{self.port}/"

    @property
    def node_name(self) -> str:
        return f"ca{self.port}@localhost"

    @property
    def pid(self) -> int:
        """The pid of the Erlang machine. Raises RigError if it was never started."""
        if self._process is None:
            raise RigError("the broker is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def _environment(self) -> dict[str, str]:
        home = str(self._home)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return kept | {
            "HOME": home,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": _LOOPBACK,
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": f"{home}/data",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_PID_FILE": f"{home}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/no-environment",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG + " -kernel inet_dist_use_interface {127,0,0,1}",
            # The start script then becomes the Erlang machine, so that the pid we know is the one to kill.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _prepare(self) -> None:
        if not (_PROGRAMS / "rabbitmq-server").exists():
            raise RigError(
                f"{_PROGRAMS}/rabbitmq-server is not installed: install the Debian package {_PACKAGE}"
            )
        self._home.mkdir()
        self._home.joinpath("plugins").write_text("[].\n")
        self._home.joinpath("rabbitmq.conf").write_text(
            _CONFIGURATION.format(address=self.address, port=self.port)
        )
        cookie = self._home / ".erlang.cookie"
        cookie.write_text(os.urandom(16).hex())
        cookie.chmod(0o400)
        if self._user:
            owner = pwd.getpwnam(self._user)
            for path in (self._home, *self._home.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)

    def start(self) -> Self:
        """Start the node and wait until it serves. Raises RigError with its log if it does not."""
        if not self._home.exists():
            self._prepare()
            self._supervisor.start()
        self.launch()
        self.wait_ready()
        return self

    def launch(self) -> None:
        """Start the node without waiting for it."""
        self._process = self._supervisor.run(
            [str(_PROGRAMS / "rabbitmq-server")],
            env=self._environment(),
            cwd=self._home,
            log=self.scratch / "console.log",
            user=self._user,
        )

    def wait_ready(self, timeout: float = _READY_DEADLINE_S) -> None:
        """Wait until it opens a connection."""
        wait_until(self._serves, timeout, "the broker's readiness", self.evidence)

    def _serves(self) -> bool:
        if not self.running:
            raise RigError(f"the broker ended while it started\n{self.evidence()}")
        try:
            wire.close(self.connect())
        except wire.BROKEN:
            return False
        return True

    def connect(self) -> amqp.Connection:
        """A connection of its own for a look from outside; a context manager."""
        return wire.connect(self.transport_url, read_timeout=10, write_timeout=10)

    def queue_length(self, name: str) -> int:
        """How many messages of a queue are ready (those that a consumer holds are not).

        Just after a start a quorum queue without a leader yet answers 0. Raises RigError without the queue.
        """
        with self.connect() as connection:
            try:
                return int(connection.channel().queue_declare(name, passive=True).message_count)
            except amqp.exceptions.NotFound as error:
                raise RigError(f"no queue {name!r}") from error

    def has_queue(self, name: str) -> bool:
        """Whether the queue exists."""
        try:
            self.queue_length(name)
        except RigError:
            return False
        return True

    def stop(self) -> None:
        """Stop the node in good order; its data stays for `start`."""
        if self._process is not None:
            self._process.terminate(_STOP_DEADLINE_S)

    def kill(self) -> None:
        """Kill the node as by a power cut; its data stays for `start`."""
        if self._process is not None:
            self._process.kill()

    def settle(self) -> None:
        """Have the node write down which quorum queues it holds; needed before `kill` if one is new.

        RabbitMQ 3.10 does that up to half a second late; a queue that is younger when the node is killed
        comes back empty (fixed later: rabbitmq/ra#443). Takes about half a second.
        """
        self.ctl("eval", "[dets:sync(Table) || Table <- dets:all()].")

    def ensure(self) -> None:
        """Make it serve again after whatever a test did to it."""
        if self.running and is_alive(self.pid):
            self.resume()
            self.wait_ready()
        else:
            self.start()

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run `rabbitmqctl`; what it printed. Slow (over a second). Raises RigError if it fails."""
        log = self.scratch / f"ctl-{next(self._numbers)}.log"
        command = [str(_PROGRAMS / "rabbitmqctl"), "--quiet", "--node", self.node_name, *arguments]
        process = self._supervisor.run(
            command, env=self._environment(), cwd=self._home, log=log, user=self._user
        )
        status, said = process.wait(timeout), read_text(log)
        log.unlink(missing_ok=True)
        if status != 0:
            raise RigError(f"rabbitmqctl {' '.join(arguments)} failed ({status})\n{said}")
        return said

    def close_connections(self, reason: str = "cut by the test") -> None:
        """Cut every connection from the broker's side."""
        self.ctl("close_all_connections", reason)

    def processes(self) -> dict[int, str]:
        """The pids and names of all that runs for it."""
        found, waiting = {}, [self._supervisor.pid]
        while waiting:
            pid = waiting.pop()
            waiting += children_of(pid)
            found[pid] = read_text(pathlib.Path(f"/proc/{pid}/comm")).strip()
        return found

    def listening(self) -> set[tuple[str, int]]:
        """The addresses and ports at which its processes listen."""
        return set().union(*map(sockets.listening, self.processes()))

    def log_text(self) -> str:
        """What the node wrote to its log."""
        return read_text(self._home / "log" / f"{self.node_name}.log")

    def evidence(self) -> str:
        """The ends of the node's log and console, for a failing test."""
        console = read_text(self.scratch / "console.log")
        log = "\n".join(line for line in self.log_text().splitlines() if _TEDIOUS not in line)
        return f"--- broker {self.node_name}\n{tail(log)}\n--- its console\n{tail(console, 10)}"

    def close(self) -> None:
        """End it for good: node, epmd and directory."""
        self._supervisor.stop()
        scratch.remove(self.scratch)

    def reachable(self) -> bool:
        """Whether something accepts connections at its port."""
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(2)
            return probe.connect_ex((self.address, self.port)) == 0

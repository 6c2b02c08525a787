# SPDX-License-Identifier: Apache-2.0
"""A private libvirtd with its own virtlogd, whose guests are real QEMU processes.

As root it is a system daemon (`qemu:///system`) in a mount namespace in which `/run` and libvirt's
directories are its own; libvirt has those paths built in. Anybody else gets a session daemon
(`qemu:///session`) whose XDG directories are its own. Either way the libvirt of the machine, if there is
one, neither notices nor matters, several can run at once, and the agent connects through a socket in the
scratch directory, which everyone sees at the same place.

Everything runs below one supervisor, so a destroyed QEMU is reaped at once and guests live on when
libvirtd is killed or restarted. Invariant: when the Hypervisor is closed, no process and no file of it
is left.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import time
import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from tests.rig import bootsector, domain, scratch
from tests.rig.part import Daemon
from tests.rig.process import (
    Process,
    RigError,
    Supervisor,
    command_line,
    is_alive,
    read_text,
    tail,
    tool,
    wait_until,
)

_PACKAGE = "libvirt-daemon-system"
_READY_DEADLINE_S = 60.0
_WARM_DEADLINE_S = 180.0
#: What libvirt 9.0 ends with if a guest that it filters ends in the very moment in which it starts.
_CAN_NOT_BEGIN = "Driver state initialization failed"
_NWFILTERS = pathlib.Path("/etc/libvirt/nwfilter")

_LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
log_outputs = "2:stderr"
"""
_LIBVIRTD_TCP = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
"""
_VIRTLOGD_CONF = 'log_outputs = "2:stderr"\n'
_QEMU_CONF_COMMON = """\
stdio_handler = "logd"
vnc_listen = "127.0.0.1"
spice_listen = "127.0.0.1"
"""
_QEMU_CONF_ROOT = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
"""


class Hypervisor(Daemon):
    """A libvirtd of our own.

    hostname, prefix: a host name of its own, and a command put before everything it runs, such as
    `["ip", "netns", "exec", NAME]`: with these it is one host of several (root only).
    tcp_address: listen for other hosts there (migration), without authentication. network: it gets a network
    namespace of its own, which this lays out before libvirtd starts (root only). binds: further places that
    stand elsewhere on this host, as (source, target). remove: what goes with it besides its own directory.
    """

    def __init__(
        self,
        *,
        hostname: str | None = None,
        prefix: Sequence[str] = (),
        tcp_address: str | None = None,
        network: Callable[[Supervisor], None] | None = None,
        binds: Sequence[tuple[pathlib.Path, pathlib.Path]] = (),
        remove: Sequence[pathlib.Path] = (),
    ) -> None:
        self.scratch = scratch.make()
        self.instances_path = self.scratch / "instances"
        self.images_path = self.scratch / "images"
        self.host_uuid = str(uuids.uuid4())
        self.privileged = os.geteuid() == 0
        self.hostname = hostname
        #: Whether it has namespaces of its own beyond its mounts, so that an agent has to run inside it.
        self.is_host = hostname is not None or bool(prefix) or network is not None
        self._tcp_address = tcp_address
        self._network = network
        self._run, self._etc = self.scratch / "run", self.scratch / "etc"
        self._lib, self._log, self._cache = self.scratch / "lib", self.scratch / "log", self.scratch / "cache"
        self.supervisor = Supervisor(
            binds=[*self._binds(), *binds],
            hostname=hostname,
            prefix=prefix,
            remove=None if scratch.keep() else [self.scratch, *remove],
            net=network is not None,
        )
        self._virtlogd: Process | None = None
        self._libvirtd: Process | None = None
        self._prepared = False
        self.images = bootsector.Images(self.images_path)

    def _binds(self) -> list[tuple[pathlib.Path, pathlib.Path]]:
        if not self.privileged:
            return []
        var = pathlib.Path("/var")
        return [
            (self._run, pathlib.Path("/run")),
            (self._etc, pathlib.Path("/etc/libvirt")),
            (self._lib, var / "lib/libvirt"),
            (self._log, var / "log/libvirt"),
            (self._cache, var / "cache/libvirt"),
        ]

    @property
    def uri(self) -> str:
        """What an agent or a client has as its `connection_uri`; the same inside and outside."""
        kind = "system" if self.privileged else "session"
        return f"qemu+unix:///{kind}?socket={self._socket}"

    @property
    def _socket(self) -> pathlib.Path:
        return self._run / "libvirt" / "libvirt-sock"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of what runs on this host."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("LIBVIRT_", "XDG_"))
        }
        if self.privileged:
            return kept
        directories = {"RUNTIME_DIR": self._run, "CONFIG_HOME": self._etc, "CACHE_HOME": self._cache}
        directories |= {"DATA_HOME": self._lib, "STATE_HOME": self._log}
        return (
            kept | {f"XDG_{name}": str(path) for name, path in directories.items()} | {"HOME": str(self._lib)}
        )

    def _prepare(self) -> None:
        for path in (self._run, self._etc, self._lib, self._log, self._cache, self.instances_path):
            path.mkdir(exist_ok=True)
        self._run.chmod(0o700 if not self.privileged else 0o755)
        self._write_configuration(self._etc if self.privileged else self._etc / "libvirt")
        (self._run / "lock").mkdir()
        self.supervisor.start()
        if self._network is not None:
            self._network(self.supervisor)
        self._prepared = True

    def _write_configuration(self, directory: pathlib.Path) -> None:
        directory.mkdir(exist_ok=True)
        tcp = _LIBVIRTD_TCP.format(address=self._tcp_address) if self._tcp_address else ""
        libvirtd = _LIBVIRTD_CONF.format(host_uuid=self.host_uuid) + tcp
        (directory / "libvirtd.conf").write_text(libvirtd)
        (directory / "virtlogd.conf").write_text(_VIRTLOGD_CONF)
        (directory / "qemu.conf").write_text(_QEMU_CONF_COMMON + (_QEMU_CONF_ROOT if self.privileged else ""))
        if self.privileged and _NWFILTERS.is_dir():
            shutil.copytree(_NWFILTERS, directory / "nwfilter")

    @property
    def _configuration(self) -> pathlib.Path:
        return self._etc if self.privileged else self._etc / "libvirt"

    def start(self) -> Self:
        """Start it and wait until a guest can start without delay. Raises RigError with its log."""
        programs = tool("virtlogd", _PACKAGE), tool("libvirtd", _PACKAGE)
        tool("qemu-system-x86_64", "qemu-system-x86")
        tool("qemu-img", "qemu-utils")
        if not self._prepared:
            self._prepare()
            self._start_virtlogd(programs[0])
            self.launch()
            self.wait_ready()
            self.warm_up()
        else:
            self.launch()
            self.wait_ready()
            self.wait_reconnected()
        return self

    def wait_reconnected(self) -> None:
        """Wait until a libvirtd that was started again holds the monitors of its guests again.

        Until then it answers, but a destroy may fail with "domain is not running" although it ends the guest.
        A guest whose start was cut off is left alone: it answers nothing any more.
        """
        libvirt = bindings()
        starting = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP]
        with contextlib.closing(self.connect()) as connection:
            for found in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                with contextlib.suppress(libvirt.libvirtError):
                    if found.state() != starting:
                        found.memoryStats()

    def _start_virtlogd(self, program: str) -> None:
        command = [
            program,
            "-f",
            str(self._configuration / "virtlogd.conf"),
            "-p",
            str(self._run / "virtlogd.pid"),
        ]
        log = self.scratch / "virtlogd.log"
        self._virtlogd = self.supervisor.run(command, env=self.environment, log=log, cwd=self.scratch)
        socket = self._run / "libvirt" / "virtlogd-sock"
        wait_until(socket.exists, _READY_DEADLINE_S, "virtlogd's socket", self.evidence)

    def _forget_cut_off_starts(self) -> None:
        """Remove what libvirtd noted of starts in which it was killed before there was a QEMU.

        Libvirt 9.0 would show these domains as starting for ever and could not end them.
        """
        for path in (self._run / "libvirt" / "qemu").glob("**/*.xml"):
            if re.search(r"<domstatus [^>]*pid='0'", path.read_text(errors="replace")):
                path.unlink()

    def launch(self) -> None:
        """Start libvirtd without waiting for it."""
        self._forget_cut_off_starts()
        program = tool("libvirtd", _PACKAGE)
        command = [
            program,
            "-f",
            str(self._configuration / "libvirtd.conf"),
            "-p",
            str(self._run / "libvirtd.pid"),
        ]
        if self._tcp_address:
            command.append("--listen")
        log = self.scratch / "libvirtd.log"
        self._libvirtd = self.supervisor.run(command, env=self.environment, log=log, cwd=self.scratch)

    def wait_ready(self, timeout: float = _READY_DEADLINE_S) -> None:
        """Wait until it answers."""
        wait_until(self._answers, timeout, "libvirtd's readiness", self.evidence)

    def _answers(self) -> bool:
        if not self.running:
            if not self.log_text().rstrip().endswith(_CAN_NOT_BEGIN):
                raise RigError(f"libvirtd ended while it started\n{self.evidence()}")
            self.launch()  # as systemd does
            return False
        libvirt = bindings()
        try:
            self.connect().close()
        except libvirt.libvirtError:
            return False
        return True

    def warm_up(self) -> None:
        """Run one guest, so that the first of a test does not pay for the probe of QEMU's capabilities."""
        disk = self.images.raw("warm-up")
        console = self.scratch / "warm-up.console"
        deadline = time.monotonic() + _WARM_DEADLINE_S
        with contextlib.closing(self.connect()) as connection:
            guest = connection.createXML(domain.plain_domain(disk, console, name="warm-up"), 0)
            guest.destroy()
        if time.monotonic() > deadline:
            raise RigError(
                f"the first guest took over {_WARM_DEADLINE_S} s: is /dev/kvm readable by one user only?"
            )
        disk.unlink()
        console.unlink(missing_ok=True)

    @property
    def pid(self) -> int:
        """The pid of libvirtd. Raises RigError if it was never started."""
        if self._libvirtd is None:
            raise RigError("libvirtd is not started")
        return self._libvirtd.pid

    @property
    def running(self) -> bool:
        """Whether libvirtd runs."""
        return self._libvirtd is not None and self._libvirtd.running

    def connect(self) -> Any:
        """A libvirt connection for judging from outside (a `libvirt.virConnect`)."""
        return bindings().open(self.uri)

    def domains(self) -> dict[str, bool]:
        """The uuids of all domains, and whether each runs."""
        with contextlib.closing(self.connect()) as connection:
            return {found.UUIDString(): bool(found.isActive()) for found in connection.listAllDomains()}

    def qemu_pids(self) -> dict[str, int]:
        """The pid of QEMU by the uuid of its guest, found in the process table and not by asking libvirt."""
        found = {}
        for pid in self.supervisor.children():
            arguments = command_line(pid)
            if "-uuid" in arguments and is_alive(pid):
                found[arguments[arguments.index("-uuid") + 1]] = pid
        return found

    def qemu_pid(self, uuid: str) -> int | None:
        """The pid of a guest's QEMU; None if there is none."""
        return self.qemu_pids().get(uuid)

    def kill_guest(self, uuid: str) -> None:
        """Kill a guest's QEMU behind libvirt's back. Raises RigError if it has none."""
        pid = self.qemu_pid(uuid)
        if pid is None:
            raise RigError(f"no QEMU runs for {uuid}")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), 10, f"the end of QEMU {pid}")

    def destroy_all(self, but: Mapping[str, object] | None = None) -> None:
        """Destroy and undefine every domain that is not in `but`, and the agents' filters."""
        libvirt = bindings()
        flags = libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        with contextlib.closing(self.connect()) as connection:
            for found in connection.listAllDomains():
                if but is None or found.UUIDString() not in but:
                    _remove(found, flags)
            for found in _filters(connection):
                with contextlib.suppress(libvirt.libvirtError):  # a guest in `but` uses it
                    found.undefine()

    def stop(self) -> None:
        """Stop libvirtd in good order; guests run on, `start` finds them again."""
        if self._libvirtd is not None:
            self._libvirtd.terminate(_READY_DEADLINE_S)

    def kill(self) -> None:
        """Kill libvirtd; guests run on."""
        if self._libvirtd is not None:
            self._libvirtd.kill()

    def lose_power(self) -> None:
        """Kill libvirtd and all guests, with what libvirtd keeps in /run; `start` is the next boot."""
        guests = self.qemu_pids()
        self.kill()
        for pid in guests.values():
            os.kill(pid, signal.SIGKILL)
        for pid in guests.values():
            wait_until(lambda pid=pid: not is_alive(pid), 30, f"the end of QEMU {pid}")
        for kept in ("qemu", "nwfilter-binding"):
            for path in (self._run / "libvirt" / kept).glob("*.xml"):
                path.unlink()

    def configure_qemu(self, more: str) -> None:
        """Have libvirtd read `more` besides what is usual for QEMU; nothing, to end that."""
        usual = _QEMU_CONF_COMMON + (_QEMU_CONF_ROOT if self.privileged else "")
        (self._configuration / "qemu.conf").write_text(usual + more)
        self.restart()

    def ensure(self) -> None:
        """Make it serve again after whatever a test did to it."""
        if self.running:
            self.resume()
            self.wait_ready()
        else:
            self.start()

    def log_text(self) -> str:
        """What libvirtd wrote to its log."""
        return read_text(self.scratch / "libvirtd.log")

    def evidence(self) -> str:
        """The ends of the logs of libvirtd and virtlogd, for a failing test."""
        virtlogd = read_text(self.scratch / "virtlogd.log")
        return f"--- libvirtd {self.scratch}\n{tail(self.log_text())}\n--- its virtlogd\n{tail(virtlogd, 10)}"

    def close(self) -> None:
        """End it for good: guests, daemons and directories."""
        self.supervisor.stop()
        scratch.remove(self.scratch)


def bindings() -> Any:
    """libvirt's module, with its habit of printing every error to stderr switched off."""
    try:
        import libvirt
    except ImportError as error:
        raise RigError("libvirt-python is not installed: install the extra [libvirt]") from error
    libvirt.registerErrorHandler(lambda *_: None, None)
    return libvirt


def _filters(connection: Any) -> list[Any]:
    """The agents' packet filters; a session's libvirt has none."""
    libvirt = bindings()
    with contextlib.suppress(libvirt.libvirtError):
        return [one for one in connection.listAllNWFilters() if one.name().startswith("compute-agent-")]
    return []


def _remove(found: Any, flags: int) -> None:
    libvirt = bindings()
    with contextlib.suppress(libvirt.libvirtError):
        if found.isActive():
            found.destroy()
    with contextlib.suppress(libvirt.libvirtError):
        found.undefineFlags(flags)

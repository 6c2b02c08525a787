# SPDX-License-Identifier: Apache-2.0
"""Children of the rig: started below a supervisor, logged to a file, ended by their own pid.

A `Supervisor` is our end of a `reaper` process: everything that a part of the rig starts runs below one,
so that daemons which fork away are reaped at once and none of it outlives the supervisor, not even when
the test process is killed. A supervisor may have namespaces of its own; it then is a small host, and
what must run "on that host" is started with `run` of that supervisor.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

from tests.rig import reaper

T = TypeVar("T")

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.05
_SUPERVISOR_DEADLINE_S = 20.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class RigError(Exception):
    """A part of the rig could not do what was asked of it; the text holds the evidence."""


class RigTimeoutError(RigError):
    """What was waited for did not come about in time."""


def tail(text: str, lines: int = 40) -> str:
    """The last lines of a text."""
    return "\n".join(text.splitlines()[-lines:])


def read_text(path: pathlib.Path) -> str:
    """What is in a file so far; nothing if it is not there."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return ""


def wait_until(
    predicate: Callable[[], T | None],
    timeout: float = 10.0,
    what: str = "the condition",
    evidence: Callable[[], str] | None = None,
) -> T:
    """The first true answer of `predicate`, asked again and again for up to `timeout` seconds.

    Raises RigTimeoutError naming `what`, with the text of `evidence`.
    """
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE_S
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            shown = f"\n{evidence()}" if evidence else ""
            raise RigTimeoutError(f"{what} did not come about within {timeout} s{shown}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def tool(name: str, package: str) -> str:
    """The path of a program of the system. Raises RigError naming the Debian package that brings it."""
    search = os.environ.get("PATH", "") + os.pathsep + _SYSTEM_PATH
    found = shutil.which(name, path=search)
    if found is None:
        raise RigError(f"{name} is not installed: install the Debian package {package}")
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    pids = [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()]
    return [child for child in pids if reaper.parent_of(child) == pid]


def command_line(pid: int) -> list[str]:
    """The arguments of a process; none if it is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.decode(errors="replace").rstrip("\0").split("\0")


class Process:
    """A started command. `returncode` is None while it runs, negative if a signal ended it."""

    def __init__(self, pid: int, argv: Sequence[str], log: pathlib.Path | None) -> None:
        self.pid = pid
        self.argv = list(argv)
        self.log = log
        self.returncode: int | None = None
        self._ended = threading.Event()

    def ended(self, status: int) -> None:
        """Told by the supervisor when the process has ended."""
        self.returncode = status
        self._ended.set()

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    def log_text(self) -> str:
        """All that it wrote."""
        return read_text(self.log) if self.log else ""

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended already."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Its exit status. Raises RigTimeoutError with the tail of its log."""
        if not self._ended.wait(timeout):
            name = pathlib.Path(self.argv[0]).name
            raise RigTimeoutError(
                f"{name} (pid {self.pid}) still runs after {timeout} s\n{tail(self.log_text())}"
            )
        assert self.returncode is not None
        return self.returncode

    def terminate(self, timeout: float) -> int:
        """End it by SIGTERM; its exit status. Raises RigTimeoutError if it goes on."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> int:
        """End it by SIGKILL; its exit status."""
        self.signal(signal.SIGKILL)
        return self.wait(_SUPERVISOR_DEADLINE_S)


class Supervisor:
    """Our end of a reaper: starts commands below it.

    binds: directories that stand elsewhere for everything below (root only), as (source, target).
    hostname: a host name of its own (root only). prefix: a command put before the reaper's own, such as
    `ip netns exec NAME`. remove: a directory, or several, deleted when all processes are gone, whoever
    ended them.
    net: a network namespace of its own, with nothing but a loopback that is down (root only); it and every
    device in it go with the last process below.
    """

    def __init__(
        self,
        binds: Sequence[tuple[pathlib.Path, pathlib.Path]] = (),
        hostname: str | None = None,
        prefix: Sequence[str] = (),
        remove: pathlib.Path | Sequence[pathlib.Path] | None = None,
        net: bool = False,
    ) -> None:
        self._command = [*prefix, sys.executable, "-I", "-S", reaper.__file__]
        for source, target in binds:
            self._command += ["--bind", f"{source}:{target}"]
        if hostname:
            self._command += ["--hostname", hostname]
        if net:
            self._command.append("--net")
        for directory in [remove] if isinstance(remove, pathlib.Path) else remove or ():
            self._command += ["--remove", str(directory)]
        self._command.append("--serve")
        self._popen: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._processes: dict[int, Process] = {}
        self._early: dict[int, int] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()

    @property
    def pid(self) -> int:
        """The pid of the reaper, which orphans have as their parent."""
        return self._running().pid

    def _running(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise RigError("the supervisor is not started")
        return self._popen

    def start(self) -> Self:
        """Start the reaper. Raises RigError with what it said, if it cannot do what is asked of it."""
        self._popen = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True, name="supervisor").start()
        if not self._ready.wait(_SUPERVISOR_DEADLINE_S) or self._popen.poll() is not None:
            self._popen.kill()
            raise RigError(f"the supervisor did not start: {self._complaint()}")
        return self

    def _complaint(self) -> str:
        stream = self._running().stderr
        return stream.read().decode(errors="replace") if stream else ""

    def _listen(self) -> None:
        stream = self._running().stdout
        assert stream is not None
        with stream:
            for line in stream:
                self._dispatch(json.loads(line))
        self._running().wait()
        self._ready.set()
        self._all_over()

    def _all_over(self) -> None:
        with self._lock:
            processes, answers = list(self._processes.values()), list(self._answers.values())
            self._processes.clear()
        for process in processes:
            process.ended(-signal.SIGKILL)
        for answer in answers:
            answer.put({"error": "the supervisor has ended"})

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready.set()
        elif "exit" in message:
            self._exited(message["exit"], message["status"])
        else:
            self._answers[message["id"]].put(message)

    def _exited(self, pid: int, status: int) -> None:
        """The end may be told before `run` has come round to noting the process."""
        with self._lock:
            process = self._processes.pop(pid, None)
            if process is None:
                self._early[pid] = status
        if process is not None:
            process.ended(status)

    def run(
        self,
        argv: Sequence[str],
        *,
        log: pathlib.Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        user: str | None = None,
    ) -> Process:
        """Start a command, its output appended to `log`. Raises RigError if its program cannot be run."""
        request = {
            "run": list(argv),
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd) if cwd else None,
            "log": str(log) if log else os.devnull,
            "user": user,
        }
        answer = self._ask(request)
        if "error" in answer:
            raise RigError(f"cannot run {argv[0]}: {answer['error']}")
        return self._note(Process(answer["pid"], argv, log))

    def _note(self, process: Process) -> Process:
        with self._lock:
            status = self._early.pop(process.pid, None)
            if status is None:
                self._processes[process.pid] = process
        if status is not None:
            process.ended(status)
        return process

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        box: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers[number] = box
        stream = self._running().stdin
        assert stream is not None
        try:
            with self._lock:
                stream.write(json.dumps({"id": number, **request}).encode() + b"\n")
                stream.flush()
            return box.get(timeout=_SUPERVISOR_DEADLINE_S)
        except (BrokenPipeError, queue.Empty) as error:
            raise RigError(f"the supervisor does not answer: {error!r}") from error
        finally:
            del self._answers[number]

    def tell(self, argv: Sequence[str], timeout: float = 30.0) -> str:
        """Run a command to its end; what it printed. Raises RigError with that if it fails."""
        with tempfile.NamedTemporaryFile(prefix="ca-out-") as out:
            process = self.run(argv, log=pathlib.Path(out.name))
            try:
                status = process.wait(timeout)
            finally:
                process.signal(signal.SIGKILL)
            said = out.read().decode(errors="replace")
        if status != 0:
            raise RigError(f"{' '.join(argv)} failed ({status})\n{tail(said)}")
        return said

    def children(self) -> list[int]:
        """The pids of its direct children: what it started, and what was orphaned to it."""
        return children_of(self.pid)

    def stop(self) -> None:
        """End everything below it, and it. Stopping twice is fine."""
        if self._popen is None:
            return
        for stream in (self._popen.stdin, self._popen.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._popen.terminate()
        try:
            self._popen.wait(_SUPERVISOR_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

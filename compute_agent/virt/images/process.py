# SPDX-License-Identifier: Apache-2.0
"""Run a program without blocking the hub, under limits, and end it when its time is over.

The child is started and waited for in a native thread. There ``posix`` is used and not ``os``:
the agent's backend makes ``os.waitpid`` and its like wait on the hub, which a native thread
must not do. Output goes to memory files, so that no pipe can fill up; the child is signalled
through a pidfd, so that no stranger who got its number is.
"""

import dataclasses
import functools
import posix
import shutil
import signal
from collections.abc import Sequence

from compute_agent import concurrency, steps
from compute_agent.model import errors

OUTPUT_LIMIT = 4 * 1024 * 1024
KILL_GRACE_S = 5.0
"""Seconds that a killed child gets to vanish; one stuck in the kernel is left to its thread."""

POOL = concurrency.NativePool("process", 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the child may use; None for no limit.

    :param memory_bytes: of address space
    :param cpu_s: seconds of processor time
    :param file_bytes: of any file that it writes, what it says included
    """

    memory_bytes: int | None = None
    cpu_s: int | None = None
    file_bytes: int | None = None

    def prefix(self) -> list[str]:
        """Return the command that sets them before it becomes the child."""
        wanted = {"as": self.memory_bytes, "cpu": self.cpu_s, "fsize": self.file_bytes}
        options = [f"--{name}={value}" for name, value in wanted.items() if value is not None]
        return [find("prlimit"), *options] if options else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completed:
    """A child that ended. ``returncode`` is minus the signal's number if one ended it."""

    returncode: int
    stdout: bytes
    stderr: str


@functools.cache
def find(program: str) -> str:
    """Return the full path of ``program``.

    :raises HypervisorError: if it is not installed
    """
    path = shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise errors.HypervisorError(
            f"{program} is not installed",
            hint="the project's bindep.txt lists the packages that a host needs",
        )
    return path


def run(argv: Sequence[str], *, timeout_s: float, limits: Limits | None = None) -> Completed:
    """Run ``argv`` and return what it said; a failure of its own is in ``returncode``.

    :param argv: the program by name, and its arguments; no shell is involved
    :param timeout_s: wall-clock seconds; the running operation's deadline holds too
    :raises Timeout: when its time is over; the child has been killed
    :raises Cancelled: when the running operation is cancelled; likewise
    :raises HypervisorError: if the program can't be started
    """
    child = _Child([*(limits or Limits()).prefix(), find(argv[0]), *argv[1:]])
    ended = concurrency.Event()
    task = concurrency.spawn(_follow, child, ended)
    try:
        if not steps.current().wait(ended, timeout_s):
            raise errors.Timeout(f"{argv[0]} did not end within {timeout_s:g} s")
    except BaseException:
        child.kill()
        ended.wait(KILL_GRACE_S)
        raise
    task.wait()
    return child.completed()


def _follow(child: "_Child", ended: concurrency.Event) -> None:
    try:
        POOL.call(child.run)
    except OSError as error:
        child.error = error
    finally:
        ended.set()


class _Child:
    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self._pidfd: int | None = None
        self._killed = False
        self._outcome: tuple[int, bytes, bytes] | None = None
        self.error: OSError | None = None

    def completed(self) -> Completed:
        if self._outcome is None:
            raise errors.HypervisorError(f"{self._argv[0]} can't be run: {self.error}")
        returncode, stdout, stderr = self._outcome
        return Completed(returncode=returncode, stdout=stdout, stderr=stderr.decode(errors="replace"))

    def kill(self) -> None:
        """End it, or keep it from starting. On the hub."""
        self._killed = True
        if self._pidfd is not None:
            self._signal(self._pidfd)

    def run(self) -> None:
        """Start it and wait for its end. In a native thread."""
        out, err = (posix.memfd_create(name, posix.MFD_CLOEXEC) for name in ("stdout", "stderr"))
        try:
            status = self._wait(out, err)
            self._outcome = (
                posix.waitstatus_to_exitcode(status),
                posix.pread(out, OUTPUT_LIMIT, 0),
                posix.pread(err, OUTPUT_LIMIT, 0)[-errors.EVIDENCE_LIMIT :],
            )
        finally:
            posix.close(out)
            posix.close(err)

    def _wait(self, out: int, err: int) -> int:
        if self._killed:
            raise InterruptedError("killed before it started")
        pid = posix.posix_spawn(
            self._argv[0],
            self._argv,
            {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            file_actions=[
                (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0),
                (posix.POSIX_SPAWN_DUP2, out, 1),
                (posix.POSIX_SPAWN_DUP2, err, 2),
            ],
            setsid=True,  # a Ctrl-C on the agent's terminal is not meant for its children
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these two
        )
        pidfd = posix.pidfd_open(pid)
        self._pidfd = pidfd
        try:
            if self._killed:
                self._signal(pidfd)
            return posix.waitpid(pid, 0)[1]
        finally:
            self._pidfd = None
            posix.close(pidfd)

    @staticmethod
    def _signal(pidfd: int) -> None:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:  # it has ended meanwhile
            return

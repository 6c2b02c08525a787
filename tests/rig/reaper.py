# SPDX-License-Identifier: Apache-2.0
"""A process that adopts the orphans below it, reaps them at once, and takes them along when it ends.

It is a program, run by its path (`python -I -S reaper.py ...`) or as `python -m tests.rig.reaper`, and uses
the standard library alone, so that it starts in some ten milliseconds. Two ways to use it:

* `reaper.py [options] COMMAND...` runs one command, forwards SIGTERM and SIGINT to it, and exits as it did;
* `reaper.py [options] --serve` reads requests from its standard input and answers on its standard output, one
  JSON object per line: `{"id", "run": [argv], "env", "cwd", "log", "user"}` is answered by `{"id", "pid"}`
  or `{"id", "error"}`, and the end of what it started is told by `{"exit": pid, "status": code}` (negative:
  the signal). The end of its input ends it.

Why: a daemon that forks away from its starter (QEMU under libvirtd, epmd under a broker) belongs to
process 1, which may reap late and which ends nothing when a test does. Invariants: whatever the reaper
started, or was left to it, is gone when it is gone; it ends when its parent does, however that came
about.

`--bind SRC:DST` gives everything below it a mount namespace of its own in which SRC stands at DST,
`--hostname NAME` a host name of its own, `--net` a network namespace with nothing but a loopback; all need
root. `--remove DIR` deletes DIR at the very end; it may be given several times.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import errno
import json
import os
import pwd
import selectors
import shutil
import signal
import sys
import time
import types

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWNET = 0x40000000
_MNT_DETACH = 2
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MS_REC_BIND = 0x1000 | 0x4000
_KILL_DEADLINE_S = 15.0

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def isolate(binds: list[tuple[str, str]], hostname: str | None, net: bool = False) -> None:
    """Enter namespaces of our own, as far as asked for. Raises OSError without the right to."""
    flags = (_CLONE_NEWNS if binds or net else 0) | (_CLONE_NEWUTS if hostname else 0)
    flags |= _CLONE_NEWNET if net else 0
    if not flags:
        return
    _check(_libc.unshare(flags), "unshare")
    if binds or net:
        _check(_libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "make mounts private")
    if net:
        _show_own_devices()
    for source, target in binds:
        _check(
            _libc.mount(source.encode(), target.encode(), None, _MS_REC_BIND, None),
            f"bind {source} over {target}",
        )
    if hostname:
        name = hostname.encode()
        _check(_libc.sethostname(name, len(name)), "sethostname")


def _show_own_devices() -> None:
    """Mount /sys anew: it shows the network devices of the namespace in which it was mounted."""
    _libc.umount2(b"/sys", _MNT_DETACH)
    _check(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "mount /sys")


@dataclasses.dataclass(frozen=True)
class Request:
    """A command to start. `env` replaces the environment; `user` is a login name to switch to."""

    argv: list[str]
    env: dict[str, str] | None = None
    cwd: str | None = None
    log: str | None = None
    user: str | None = None


def _become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _redirect(log: str | None) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if log is not None:
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)


def _child(request: Request) -> None:
    """What a forked child does up to its program: a session of its own, default signals, its own log."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setsid()
    _redirect(request.log)
    if request.user:
        _become(request.user)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if request.cwd:
        os.chdir(request.cwd)
    os.execvpe(request.argv[0], request.argv, dict(os.environ) if request.env is None else request.env)


def start(request: Request) -> int:
    """Start a command; its pid. Raises OSError if its program cannot be run."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _child(request)
        except BaseException as error:
            os.write(tell, f"{request.argv[0]}: {error}".encode())
        finally:
            os._exit(127)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        failure = pipe.read()
    if failure:
        os.waitpid(pid, 0)
        raise OSError(errno.ENOEXEC, failure.decode(errors="replace"))
    return pid


def children() -> list[int]:
    """The pids of this process's present children."""
    me, found = os.getpid(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and parent_of(int(entry)) == me:
            found.append(int(entry))
    return found


def parent_of(pid: int) -> int | None:
    """The parent of a process; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return None


def reap() -> list[tuple[int, int]]:
    """Collect every child that has ended: pid and exit status (negative: the signal)."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def kill_all() -> None:
    """End every child, and what becomes a child by that, until none is left."""
    deadline = time.monotonic() + _KILL_DEADLINE_S
    while time.monotonic() < deadline:
        reap()
        left = children()
        if not left:
            return
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


class Reaper:
    """The main loop: reaps, serves requests, forwards signals, watches its parent."""

    def __init__(self) -> None:
        self._main: int | None = None
        self._status = 0
        self._over = False
        self._started: set[int] = set()
        self._unread = b""
        self._signals: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._watch_signals()
        self._watch_parent()

    def _watch_signals(self) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(read, selectors.EVENT_READ, self._woken)

    def _remember(self, number: int, _frame: types.FrameType | None) -> None:
        self._signals.append(number)

    def _watch_parent(self) -> None:
        """Not by PR_SET_PDEATHSIG: that one fires when the *thread* that started us ends."""
        parent = os.pidfd_open(os.getppid())
        self._selector.register(parent, selectors.EVENT_READ, self._finish)

    def _finish(self, _fd: int) -> None:
        self._over = True

    def _woken(self, fd: int) -> None:
        os.read(fd, 4096)
        for pid, status in reap():
            self._ended(pid, status)
        while self._signals:
            self._signalled(self._signals.pop(0))

    def _signalled(self, number: int) -> None:
        if self._main is None:
            self._over = True
        else:
            os.kill(self._main, number)

    def _ended(self, pid: int, status: int) -> None:
        if pid == self._main:
            self._status, self._over = status, True
        if pid in self._started:
            self._started.discard(pid)
            self._tell({"exit": pid, "status": status})

    def _tell(self, answer: dict[str, object]) -> None:
        try:
            os.write(1, json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            self._over = True

    def run(self, argv: list[str]) -> int:
        """Run one command to its end; its exit status, 128 + n if signal n ended it."""
        self._main = start(Request(argv))
        self._loop()
        return self._status if self._status >= 0 else 128 - self._status

    def serve(self) -> int:
        """Serve requests until the input ends."""
        self._selector.register(0, selectors.EVENT_READ, self._readable)
        self._tell({"ready": os.getpid()})
        self._loop()
        return 0

    def _loop(self) -> None:
        while not self._over:
            for key, _events in self._selector.select():
                key.data(key.fd)
                if self._over:
                    return

    def _readable(self, fd: int) -> None:
        piece = os.read(fd, 65536)
        if not piece:
            self._over = True
            return
        *lines, self._unread = (self._unread + piece).split(b"\n")
        for line in lines:
            self._serve_one(json.loads(line))

    def _serve_one(self, message: dict[str, object]) -> None:
        identity = message.pop("id")
        argv = message.pop("run")
        try:
            pid = start(Request(argv, **message))  # type: ignore[arg-type]
        except OSError as error:
            self._tell({"id": identity, "error": str(error)})
            return
        self._started.add(pid)
        self._tell({"id": identity, "pid": pid})


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="reaper", description="run a command and take its orphans along")
    parser.add_argument("--serve", action="store_true", help="serve requests from standard input")
    parser.add_argument("--bind", action="append", default=[], metavar="SRC:DST")
    parser.add_argument("--hostname")
    parser.add_argument("--net", action="store_true", help="a network namespace of its own")
    parser.add_argument("--remove", action="append", default=[], metavar="DIR", help="to delete at the end")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.serve == bool(options.command):
        parser.error("either --serve or a command")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
    isolate([tuple(bind.split(":", 1)) for bind in options.bind], options.hostname, options.net)
    reaper = Reaper()
    try:
        return reaper.serve() if options.serve else reaper.run(options.command)
    finally:
        kill_all()
        for directory in options.remove:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

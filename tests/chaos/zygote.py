# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Agents without the time of their imports: forked from a process that has made them all.

Run as ``python -m tests.chaos.zygote SOCKET [MODULE ...]``; the modules are imported too. Each connection
asks for one agent (JSON, one line: arguments, environment, directory, log, control socket), is told its pid,
and its exit status when it has ended. The agent is the daemon as it stands, with one thing added: a socket at
which its failpoints are armed while it runs, and which tells the points passed since it was asked last.
"""

from compute_agent import concurrency

concurrency.patch()

import contextlib
import importlib
import json
import os
import signal
import sys
from typing import Any

import eventlet.hubs
import eventlet.patcher

from compute_agent import failpoints

socket = eventlet.patcher.original("socket")
green_socket = importlib.import_module("socket")

ALL = ("compute_agent.cmd.agent", "compute_agent.service", "compute_agent.virt.fake", "oslo_messaging")


def serve(path: str, *modules: str) -> None:
    """Fork an agent for each connection, for ever."""
    for name in (*ALL, *modules):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the nurses are nobody's business
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _nurse(connection)
        connection.close()


def _nurse(connection: Any) -> None:
    """Fork the agent and wait for its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(connection.makefile().readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request)
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Be an agent."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    eventlet.hubs.use_hub()  # the zygote's own was made by an import
    concurrency.spawn(_control, request["control"])
    from compute_agent.cmd.agent import main

    sys.argv = ["compute-agent"]
    code = 1
    try:
        code = main(request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def _control(path: str) -> None:
    """Answer at the agent's control socket: ``{"arm": TEXT}`` arms, ``{}`` asks for the points since then."""
    passed: list[str] = []
    failpoints.observe(passed.append)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = green_socket.socket(green_socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4)
    while True:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError, ValueError), connection:
            request = json.loads(connection.makefile().readline())
            seen, passed[:] = list(passed), []
            if "arm" in request:
                failpoints.arm(request["arm"])
            connection.sendall(json.dumps(seen).encode() + b"\n")


if __name__ == "__main__":
    serve(*sys.argv[1:])

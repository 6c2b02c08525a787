# SPDX-License-Identifier: Apache-2.0
"""Logs about a guest: what QEMU wrote, and what the guest wrote to its serial port.

QEMU's log lies where libvirtd keeps its logs, and libvirtd may live in a mount namespace of its
own. So libvirtd is asked by its socket who it is, and its files are reached through its
``/proc`` entry.
"""

import contextlib
import os
import socket
import struct
import urllib.parse

from compute_agent.virt.libvirt.files import plain_file
from compute_agent.virt.libvirt.paths import safe_join

_ANSWER_S = 1.0
_SYSTEM_LOGS = "/var/log/libvirt/qemu"
_SOCKETS = ("libvirt-sock", "virtqemud-sock")
_CREDENTIALS = struct.Struct("3i")


def find_directory(uri: str) -> str | None:
    """Return where libvirtd keeps QEMU's logs, as this process can reach it; None if that can't be told.

    Runs in a greenthread: it waits for libvirtd's socket at most a second.
    """
    parts = urllib.parse.urlsplit(uri)
    session = parts.path == "/session"
    pid = _peer(_sockets(parts, session))
    root = f"/proc/{pid}/root" if pid else ""
    directory = _session_logs(pid) if session else _SYSTEM_LOGS
    return f"{root}{directory}" if directory else None


def _sockets(parts: urllib.parse.SplitResult, session: bool) -> list[str]:
    named = urllib.parse.parse_qs(parts.query).get("socket")
    if named:
        return named
    directory = "/run/libvirt"
    if session:
        runtime = os.environ.get("XDG_RUNTIME_DIR") or os.path.expanduser("~/.cache")
        directory = os.path.join(runtime, "libvirt")
    return [os.path.join(directory, name) for name in _SOCKETS]


def _peer(paths: list[str]) -> int | None:
    """Return the pid of who listens at the first of ``paths`` that answers."""
    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(_ANSWER_S)
            try:
                client.connect(path)
                found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            except OSError:
                continue
            pid: int = _CREDENTIALS.unpack(found)[0]
            return pid or None
    return None


def _session_logs(pid: int | None) -> str | None:
    """Return where a session daemon keeps its logs: that hangs on the environment it was started in."""
    try:
        with open(f"/proc/{pid or 'self'}/environ", "rb") as file:
            pairs = (entry.partition(b"=") for entry in file.read().split(b"\0"))
            environment = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    except OSError:
        return None
    cache = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", "/root"), ".cache")
    return os.path.join(cache, "libvirt", "qemu", "log")


def guest_log(directory: str, name: str) -> str:
    """Return the path of QEMU's log about the domain ``name``."""
    return safe_join(directory, f"{name}.log")


def tail(path: str, limit: int) -> bytes | None:
    """Return the last ``limit`` bytes of a regular file; None if it can't be read. In a native thread.

    A link is not followed: the file is at a place where guests have a say.
    """
    with contextlib.suppress(OSError), plain_file(path) as (fd, size):
        return os.pread(fd, limit, max(0, size - limit))
    return None


def rotated_tail(path: str, limit: int) -> bytes | None:
    """As :func:`tail`, with the end of what virtlogd moved away last (``.0``) where the newest is short."""
    newest = tail(path, limit)
    if newest is not None and len(newest) >= limit:
        return newest
    older = tail(f"{path}.0", limit - len(newest or b""))
    if newest is None and older is None:
        return None
    return (older or b"") + (newest or b"")

# SPDX-License-Identifier: Apache-2.0
"""A file system that is soon full, seen by the test and by a libvirtd that has mounts of its own.

A mount that is made now does not reach a namespace that was made before. So it is cloned, detached, and put
there by a process that goes into that namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

_OPEN_TREE, _CLONE, _CLOEXEC = 428, 1, os.O_CLOEXEC
_AT_FDCWD = -100
_PUT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
namespace, tree, place = map(int, sys.argv[1:])
for failed in (libc.setns(namespace, 0), libc.syscall(429, tree, b"", place, b"", 0x44)):
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


@contextlib.contextmanager
def mounted(place: pathlib.Path, mib: int, pid: int) -> Iterator[pathlib.Path]:
    """Mount a file system of ``mib`` MiB at ``place``, here and in the namespace of process ``pid``."""
    place.mkdir(mode=0o755)
    _run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "none", str(place))
    try:
        _put(place, pid)
        yield place
    finally:
        for inside in ([], ["nsenter", f"--mount=/proc/{pid}/ns/mnt", f"--root=/proc/{pid}/root"]):
            command = [*inside, "umount", "-l", str(place)]
            subprocess.run(command, check=False, capture_output=True, timeout=30)


def fill(place: pathlib.Path, leave: int = 0) -> pathlib.Path:
    """Take all room at ``place`` but for ``leave`` bytes; return the file that takes it."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    return ballast


def _put(place: pathlib.Path, pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    tree = libc.syscall(_OPEN_TREE, _AT_FDCWD, str(place).encode(), _CLONE | _CLOEXEC)
    if tree < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/root{place}", os.O_PATH)  # its root need not be that of its namespace
    passed = (namespace, tree, there)
    try:
        command = [sys.executable, "-c", _PUT, *map(str, passed)]
        subprocess.run(command, check=True, pass_fds=passed, timeout=30)
    finally:
        for descriptor in passed:
            os.close(descriptor)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)

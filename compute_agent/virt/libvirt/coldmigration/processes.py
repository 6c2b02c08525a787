# SPDX-License-Identifier: Apache-2.0
"""The QEMU programs that serve a transfer: found and ended by the directory that each of them was given.

The directory is that of one transfer at one end, with its secret. So whoever has it in its command line is
ours, whichever run of the agent has started it, and no note of a number is needed that somebody else may
have got since. These functions run in native threads.
"""

import contextlib
import os
import posix
import signal
from collections.abc import Iterator

from compute_agent import concurrency
from compute_agent.model import errors

_PROGRAMS = frozenset({"qemu-nbd", "qemu-storage-daemon"})
_LIMIT = 65536
END_LOOKS, END_PAUSE_S = 200, 0.05
"""How long a killed program gets to vanish."""


def escaped(path: str) -> str:
    """Return a path as QEMU's lists of options take it, whose items end at a comma."""
    return path.replace(",", ",,")


def of(directory: str) -> list[int]:
    """Return the numbers of the programs that serve the transfer with this directory."""
    mark = f"dir={escaped(directory)},".encode()
    return [number for number in _numbers() if _is_ours(number, mark)]


def end(directory: str) -> None:
    """End the programs that serve the transfer with this directory. None is no error.

    :raises DeviceBusy: if one does not end
    """
    mark = f"dir={escaped(directory)},".encode()
    for number in of(directory):
        with _held(number) as pidfd:
            # Held before it is looked at again: from here on the number can't become a stranger's.
            if pidfd is None or not _is_ours(number, mark):
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _wait(number, mark)


def _wait(number: int, mark: bytes) -> None:
    for _ in range(END_LOOKS):
        if not _is_ours(number, mark):
            return
        concurrency.native_sleep(END_PAUSE_S)
    raise errors.DeviceBusy(
        "a program that serves a transfer of disks does not end",
        hint="it waits for a disk that does not answer: see dmesg",
        evidence=f"process {number}",
    )


def _numbers() -> list[int]:
    return [int(name) for name in posix.listdir("/proc") if name.isdigit()]


def _is_ours(number: int, mark: bytes) -> bool:
    """Return whether a process is one of ours, and alive: one that has ended has no command line."""
    arguments = _command(number)
    return os.path.basename(arguments[0]).decode(errors="replace") in _PROGRAMS and any(
        mark in argument for argument in arguments
    )


def _command(number: int) -> list[bytes]:
    try:
        fd = posix.open(f"/proc/{number}/cmdline", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return [b""]
    try:
        return posix.read(fd, _LIMIT).split(b"\0")
    except OSError:
        return [b""]
    finally:
        posix.close(fd)


@contextlib.contextmanager
def _held(number: int) -> Iterator[int | None]:
    try:
        pidfd = posix.pidfd_open(number)
    except OSError:
        yield None
        return
    try:
        yield pidfd
    finally:
        posix.close(pidfd)

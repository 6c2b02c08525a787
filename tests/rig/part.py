# SPDX-License-Identifier: Apache-2.0
"""What every part of the rig has in common: it is started, it is closed, and it shows what went on in it."""

from __future__ import annotations

import abc
import os
import pathlib
import signal
import sys
import types
from typing import Self

from tests.rig.process import read_text, wait_until

_PROC = pathlib.Path("/proc")
_STOP_S = 30.0


class Part(abc.ABC):
    """A real thing that is started on entering a `with` block and gone after it.

    If the block fails, or the start does, the part's evidence goes to stderr.
    """

    @abc.abstractmethod
    def start(self) -> Self:
        """Start it and wait until it can be used."""

    @abc.abstractmethod
    def close(self) -> None:
        """End it for good; nothing of it remains. Closing twice is fine."""

    @abc.abstractmethod
    def evidence(self) -> str:
        """What went on in it, for whoever has to find out why something failed."""

    def ensure(self) -> None:  # noqa: B027
        """Make it usable again after whatever a test did to it."""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: types.TracebackType | None,
    ) -> None:
        if kind is not None and kind is not KeyboardInterrupt:
            print(self.evidence(), file=sys.stderr)
        self.close()


class Daemon(Part):
    """A part that is one process, which a test may end, let hang, and start again over the same data."""

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """The pid of the process. Raises RigError if it was never started."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it in good order; what it keeps is there for `start`."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Kill it; what it keeps is there for `start`."""

    def suspend(self) -> None:
        """Let it hang (SIGSTOP): it holds its connections and answers nothing from now on."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: _stands_still(self.pid), _STOP_S, "that all its threads stand still")

    def resume(self) -> None:
        """End a `suspend`."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, kill: bool = False) -> None:
        """Stop (or kill) it and start it again."""
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()


def _stands_still(pid: int) -> bool:
    """Whether no thread of a process is at work any more: a signal does not stop all of them at once."""
    states = [read_text(path).rpartition(")")[2].split()[:1] for path in _PROC.glob(f"{pid}/task/*/stat")]
    return all(state in (["T"], ["t"], []) for state in states)

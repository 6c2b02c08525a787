# SPDX-License-Identifier: Apache-2.0
"""Lives of a store: each begins with the bytes that the one before left on the disk when it was killed.

A life ends in the middle, as SIGKILL ends a process: its greenthreads are gone at their next wait, what it
had not committed is not there, and from that instant on it can do nothing to the world outside
(`Life.outside`). The instant is any point of a commit, and it is the disk as it is *there* that the next
life finds.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from greenlet import GreenletExit

from compute_agent import concurrency, failpoints
from compute_agent.store import host
from compute_agent.store.database import Store

HOST_ID = "00000000-0000-4000-8000-00000000000a"
POINTS = ("store.commit.before", "store.commit.inside", "store.commit.after")
ACT = "act"
"""Stands for every failpoint that a verb passes."""
LIMIT_S = 30.0


class Life:
    """One run over the state file at `path`; `heir` is where a crash leaves the disk for the next one."""

    def __init__(self, path: Path, heir: Path) -> None:
        self.path, self.heir = path, heir
        self.dead = False
        self._point: tuple[str, int] | None = None
        self._tasks: list[concurrency.Task] = []
        self._spawn = concurrency.spawn
        concurrency.spawn = self._spawn_noted
        failpoints.observe(self._pass)
        self.store = Store(str(path / "state.db"))
        self.store.identity = self.store.write(lambda tx: host.identify(tx, "node-1", HOST_ID))

    def _spawn_noted(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> concurrency.Task:
        task = self._spawn(function, *args, **kwargs)
        if (
            getattr(function, "__func__", None) is not concurrency.Inbox._pump
        ):  # the store's own, until it is closed
            self._tasks.append(task)
        return task

    def outside(self) -> None:
        """To be called by whatever the world outside lets it do: the dead do nothing any more."""
        if self.dead:
            raise GreenletExit

    def doom(self, point: str, passes: int) -> None:
        """Let it die when it comes to `point` (or `ACT`) for the (`passes` + 1)th time."""
        self._point = (point, passes)

    def kill(self, point: str) -> None:
        """Let it die in the next commit, which is now."""
        failpoints.arm("")
        self.doom(point, 0)
        self.store.submit(lambda tx: None).ended.wait(LIMIT_S)
        assert self.dead

    def _pass(self, name: str) -> None:
        """Look whether this is the moment."""
        if not name.startswith("store."):
            concurrency.sleep(0)  # anybody may come in between two acts
            self.outside()
        if self._point is None or self.dead or self._point[0] != self._kind_of(name):
            return
        if self._point[1] > 0:
            self._point = (self._point[0], self._point[1] - 1)
        elif name.startswith("store."):
            self._die()
        else:
            self.kill("store.commit.before")
            self.outside()

    @staticmethod
    def _kind_of(name: str) -> str:
        return name if name.startswith("store.") else ACT

    def _die(self) -> None:
        """In the thread that writes, so that nobody writes meanwhile."""
        self.dead = True
        self.heir.mkdir()
        for path in self.path.glob("state.db*"):
            if not path.name.endswith("-shm"):  # memory, gone with the processes that share it
                shutil.copy(path, self.heir / path.name)

    def end(self) -> None:
        """Free what it holds. A dead one leaves its disk to its heir, another one its directory."""
        failpoints.arm("")
        failpoints.observe(None)
        alive = not self.dead
        self.dead = True
        concurrency.spawn = self._spawn
        for task in self._tasks:
            if not task.ended:
                task.kill()
        self.store.close()
        if alive:
            self.path.rename(self.heir)
        else:
            shutil.rmtree(self.path)


class Lives:
    """One life after another. `begun` is called with each, to build on it what the test is about."""

    def __init__(self, directory: Path, begun: Callable[[Life], object]) -> None:
        self._directory, self._begun = directory, begun
        self.number = 0
        self._place().mkdir(parents=True)
        self.now = self._begin()

    def _place(self, more: int = 0) -> Path:
        return self._directory / f"life-{self.number + more}"

    def _begin(self) -> Life:
        self.now = Life(self._place(), self._place(1))
        self._begun(self.now)
        return self.now

    def next(self) -> Life:
        """End this one, however it stands, and begin the next."""
        self.now.end()
        self.number += 1
        return self._begin()

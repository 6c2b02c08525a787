# SPDX-License-Identifier: Apache-2.0
"""Verbs whose every act waits for the test's leave, done in a `World` that outlives the agent.

Leaves are given to an operation's id beforehand or while it waits, and one is used up by each act: so an
operation can be held, let go on or made to fail between any two of its acts, in this life or a later one.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

from compute_agent import concurrency, steps
from compute_agent.model import errors
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, OnFailure, Outcome, Recovery, Verb
from compute_agent.steps import Step
from tests.unit.properties.life import Life
from tests.unit.properties.world import PARTS, World


class Stage:
    """What the verbs of the test do."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.life: Life
        self.open = False
        """Whether nobody needs leave any more."""
        self._leaves: dict[str, collections.deque[bool]] = collections.defaultdict(collections.deque)
        self._given: dict[str, concurrency.Event] = collections.defaultdict(concurrency.Event)

    def give(self, operation_id: str, well: bool = True) -> None:
        """Let an operation do its next act; or let it fail there."""
        self._leaves[operation_id].append(well)
        self._given[operation_id].set()

    def open_all(self) -> None:
        """Let everybody go on."""
        self.open = True
        for given in list(self._given.values()):
            given.set()

    def _leave(self, job: Job, *, may_fail: bool = True) -> None:
        """Wait for leave. Raises `HypervisorError` where the test wants it, `Cancelled` when cancelled."""
        operation_id = job.operation.operation_id
        leaves, given = self._leaves[operation_id], self._given[operation_id]
        while not leaves and not self.open:
            given.clear()
            if may_fail:
                steps.current().wait(given)
            else:
                given.wait()
        well = leaves.popleft() if leaves else True
        self.life.outside()
        if may_fail and not well:
            raise errors.HypervisorError("the test wants it")

    def table(self) -> Mapping[str, Verb]:
        """The verbs: one of each kind of recovery, and those that guard the others."""
        rows = (
            Verb("spawn", self._spawn, makes=True, working=S.BUILDING, on_failure=OnFailure.REMOVE),
            Verb(
                "pause", self._pause(True), starts_from=frozenset({S.ACTIVE}), already=frozenset({S.PAUSED})
            ),
            Verb(
                "unpause",
                self._pause(False),
                starts_from=frozenset({S.PAUSED}),
                already=frozenset({S.ACTIVE}),
            ),
            Verb("set_admin_password", self._set_password, recovery=Recovery.INTERRUPTED),
            Verb("destroy", self._destroy, optional=True, preempts=True),
        )
        return {row.name: row for row in rows}

    def _spawn(self, _manager: Any, job: Job) -> Outcome:
        operation_id, uuid = job.operation.operation_id, job.operation.instance_uuid or ""

        def make(part: str) -> None:
            self._leave(job)
            self.world.make(operation_id, uuid, part)
            self._leave(job)

        def unmake(part: str) -> None:
            self.life.outside()
            self.world.unmake(operation_id, uuid, part)

        def step(part: str) -> Step:
            return Step(part, lambda: make(part), lambda: self.world.has(uuid, part), lambda: unmake(part))

        steps.run([step(part) for part in PARTS])
        return Outcome(state=S.ACTIVE)

    def _destroy(self, _manager: Any, job: Job) -> Outcome:
        operation_id, uuid = job.operation.operation_id, job.operation.instance_uuid or ""

        def remove(part: str) -> None:
            self._leave(job)
            self.world.remove(operation_id, uuid, part)
            self._leave(job)

        def step(part: str) -> Step:
            return Step(part, lambda: remove(part), lambda: not self.world.has(uuid, part))

        steps.run([step(part) for part in reversed(PARTS)])
        return Outcome(gone=True) if job.record is not None else Outcome()

    def _pause(self, paused: bool) -> Callable[[Any, Job], Outcome]:
        def act(_manager: Any, job: Job) -> Outcome:
            operation_id, uuid = job.operation.operation_id, job.operation.instance_uuid or ""
            self._leave(job)
            if self.world.guest(uuid).paused is not paused:
                self.world.pause(operation_id, uuid, paused)
            self._leave(job, may_fail=False)
            return Outcome(state=S.PAUSED if paused else S.ACTIVE)

        return act

    def _set_password(self, _manager: Any, job: Job) -> Outcome:
        self._leave(job)
        self.world.set_password(job.operation.operation_id)
        self._leave(job, may_fail=False)
        return Outcome()

# SPDX-License-Identifier: Apache-2.0
"""An engine on a real state file, with verbs that the test steers."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model.event import Event
from compute_agent.model.operation import Lane, Operation
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.acceptance import Accepted, Proposal, propose
from compute_agent.operations.engine import Engine
from compute_agent.operations.verbs import Job, OnFailure, Outcome, Recovery, Verb
from compute_agent.store import host, instances, journal, outbox
from compute_agent.store.database import Store

HOST_ID = "00000000-0000-4000-8000-00000000000a"


class Stage:
    """What the test's verbs do: each runs the function that the test has put there."""

    def __init__(self) -> None:
        self.acts: dict[str, Callable[[Job], Outcome | None]] = {}
        self.log: list[str] = []

    def perform(self, name: str) -> Callable[[Any, Job], Outcome | None]:
        def act(_manager: Any, job: Job) -> Outcome | None:
            self.log.append(f"{name} {job.operation.operation_id}")
            return self.acts.get(name, lambda job: Outcome())(job)

        return act


class Rig:
    """A store and an engine that can be crashed and begun again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stage = Stage()
        self.table = {
            "spawn": Verb(
                "spawn",
                self.stage.perform("spawn"),
                makes=True,
                working=S.BUILDING,
                limit="max_concurrent_builds",
                on_failure=OnFailure.REMOVE,
            ),
            "pause": Verb(
                "pause",
                self.stage.perform("pause"),
                starts_from=frozenset({S.ACTIVE}),
                already=frozenset({S.PAUSED}),
            ),
            "reboot": Verb(
                "reboot",
                self.stage.perform("reboot"),
                starts_from=frozenset({S.ACTIVE}),
                on_failure=OnFailure.ERROR,
            ),
            "set_admin_password": Verb(
                "set_admin_password", self.stage.perform("set_admin_password"), recovery=Recovery.INTERRUPTED
            ),
            "destroy": Verb("destroy", self.stage.perform("destroy"), optional=True, preempts=True),
            "cancel_operation": Verb(
                "cancel_operation", self.stage.perform("cancel_operation"), lane=Lane.CONTROL
            ),
            "external_event": Verb(
                "external_event", self.stage.perform("external_event"), lane=Lane.CONTROL, optional=True
            ),
        }
        self.stage.acts["destroy"] = lambda job: Outcome(gone=True)
        self.stage.acts["spawn"] = lambda job: Outcome(state=S.ACTIVE)
        self.stage.acts["pause"] = lambda job: Outcome(state=S.PAUSED)
        self.begin()

    def begin(self) -> None:
        """Open the state file and make an engine, as a start of the agent does."""
        self.store = Store(str(self.path))
        self.store.identity = self.store.write(lambda tx: host.identify(tx, "node-1", HOST_ID))
        self.engine = Engine(self.store, self.table, None)

    def crash(self) -> None:
        """Drop the engine where it stands, and begin again with what is on disk."""
        self.store.close()
        self.begin()

    def ask(
        self, verb: str, operation_id: str | None = None, unique_id: str | None = "m", **values: Any
    ) -> Accepted:
        """Hand in one operation."""
        operation_id = operation_id or str(uuid.uuid4())
        values["operation_id"] = operation_id
        return self.engine.accept([self.proposal(verb, operation_id, unique_id, values)])[0]

    def proposal(
        self, verb: str, operation_id: str, unique_id: str | None, values: dict[str, Any]
    ) -> Proposal:
        return propose(self.table.get(verb), verb, operation_id, values, unique_id=unique_id)

    def end_of(self, accepted: Accepted) -> Operation:
        """Wait for an operation's end and return its record."""
        assert accepted.operation is not None
        operation_id = accepted.operation.operation_id
        for entry in self.engine.entries:
            if entry.operation_id == operation_id:
                assert entry.ended.wait(10), f"{operation_id} does not end"
        operation = self.store.read(lambda tx: journal.find(tx, operation_id))
        assert operation is not None
        return operation

    def do(self, verb: str, **values: Any) -> Operation:
        """Hand in an operation and return it ended."""
        return self.end_of(self.ask(verb, **values))

    def events(self) -> list[Event]:
        return self.store.read(lambda tx: outbox.unsent(tx, 0, 10_000))

    def told(self, operation: Operation) -> list[str]:
        """The types of the events of an operation, in order."""
        return [event.type.value for event in self.events() if event.operation_id == operation.operation_id]

    def state(self, uuid: str) -> S | None:
        record = self.store.read(lambda tx: instances.find(tx, uuid))
        return record.state if record else None


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    if not CONF._namespace:
        CONF([])
    rig = Rig(tmp_path / "state.db")
    yield rig
    rig.store.close()


def instance(number: int = 1, **more: Any) -> dict[str, Any]:
    """An instance as a scheduler sends it."""
    return {
        "uuid": f"{number:08d}-0000-4000-8000-000000000000",
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": "file:///images/a"},
        **more,
    }


def hang(job: Job) -> Outcome:
    """Wait until cancelled or past the deadline."""
    steps.current().wait(concurrency.Event())
    return Outcome()

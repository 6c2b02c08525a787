# SPDX-License-Identifier: Apache-2.0
"""The agent without a broker: manager, engine and state file on the fake driver."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute_agent.conf import CONF
from compute_agent.manager import TABLE, questions, reconcile
from compute_agent.manager.external_events import ExternalEvents
from compute_agent.manager.manager import Manager
from compute_agent.manager.observer import Observer
from compute_agent.manager.virtapi import AgentVirtAPI
from compute_agent.model.event import Event
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Operation
from compute_agent.operations.acceptance import propose
from compute_agent.store import instances, journal, outbox
from compute_agent.store.directory import StateDirectory
from compute_agent.virt.fake import FakeDriver


class House:
    """A started agent whose hypervisor outlives it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start()

    def start(self) -> None:
        self.directory = StateDirectory(str(self.path / "state"))
        self.store = self.directory.open("node-1")
        events = ExternalEvents()
        self.driver = FakeDriver(AgentVirtAPI(self.store, events))
        self.manager = Manager(self.driver, self.store, TABLE)
        self.manager.external_events = events
        self.manager.observer = Observer(self.manager)
        self.manager.observer.start()
        self.manager.engine.before_again = self.manager.observer.before_again
        self.manager.engine.before_end = self.manager.observer.before_end
        self.driver.init_host("node-1")
        reconcile.after_start(self.manager)
        self.manager.engine.recover()

    def stop(self) -> None:
        self.manager.engine.stop(5)
        self.driver.cleanup_host("node-1")
        self.directory.close(self.store)

    def crash(self) -> None:
        """End as kill -9 does, and start again: nothing is written, nothing is told."""
        self.store.close()
        os.close(self.directory._lock)
        self.start()

    def ask(self, verb: str, *, context: dict[str, Any] | None = None, **values: Any) -> str:
        operation_id = values.setdefault("operation_id", str(uuid.uuid4()))
        about = {"unique_id": operation_id, "context": context or {}}
        self.manager.engine.accept([propose(TABLE[verb], verb, operation_id, values, **about)])
        return str(operation_id)

    def do(self, verb: str, **values: Any) -> Operation:
        operation_id = self.ask(verb, **values)
        for entry in self.manager.engine.entries:
            if entry.operation_id == operation_id:
                assert entry.ended.wait(10)
        operation = self.store.read(lambda tx: journal.find(tx, operation_id))
        assert operation is not None
        return operation

    def spawn(self, **more: Any) -> str:
        made = {
            "uuid": str(uuid.uuid4()),
            "flavor": {"vcpus": 1, "memory_mb": 64},
            "image": {"url": "file:///i/a"},
        }
        operation = self.do("spawn", instance=made | more)
        assert operation.error is None, operation.error
        return str(made["uuid"])

    def question(self, name: str, **values: Any) -> dict[str, Any]:
        return questions.ask(self.manager, name, values)

    def record(self, uuid: str) -> InstanceRecord:
        return self.store.read(lambda tx: instances.get(tx, uuid))

    def events(self, kind: str | None = None) -> list[Event]:
        self.manager.observer.drain()
        self.store.write(lambda tx: None)
        found = self.store.read(lambda tx: outbox.unsent(tx, 0, 10_000))
        return [event for event in found if kind is None or event.type.value == kind]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    if not CONF._namespace:
        CONF([])
    CONF.set_override("ledger", str(tmp_path / "ledger"), group="fake")
    house = House(tmp_path)
    yield house
    house.stop()
    CONF.clear_override("ledger", group="fake")

# SPDX-License-Identifier: Apache-2.0
"""The agent without a broker: manager, engine and state file on the fake driver."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

from compute_agent.manager import TABLE, questions, reconcile
from compute_agent.manager.external_events import ExternalEvents
from compute_agent.manager.manager import Manager
from compute_agent.manager.observer import Observer
from compute_agent.manager.virtapi import AgentVirtAPI
from compute_agent.model.event import Event
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Operation
from compute_agent.operations.acceptance import propose
from compute_agent.store import host, instances, journal, outbox
from compute_agent.store.database import Store
from compute_agent.store.directory import StateDirectory
from compute_agent.virt.fake import FakeDriver

WAIT_S = 30.0


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
        self.manager.engine.hooks.before_again = self.manager.observer.before_again
        self.manager.engine.hooks.before_end = self.manager.observer.before_end
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

    def start_after_boot(self) -> None:
        """Start with a state file that was written in an earlier life of the host."""
        store = Store(str(self.path / "state" / "state.db"))
        store.write(lambda tx: host.put(tx, reconcile.BOOT_KEY, "an earlier boot"))
        store.close()
        self.start()

    def meanwhile(self, guest: str, power: str, **more: str) -> None:
        """Let a guest come to this while the agent does not look."""
        with open(self.path / "ledger", "a") as ledger:
            ledger.write(json.dumps({"guest": guest, "power": power} | more) + "\n")

    def boot(self, *guests: str) -> None:
        """Let the host boot, which ends the agent and these guests; the agent has started and settled."""
        self.store.write(lambda tx: host.put(tx, reconcile.BOOT_KEY, "an earlier boot"))
        for guest in guests:
            self.meanwhile(guest, "shutdown", origin="host")
        self.crash()
        self.settle()

    def ask(self, verb: str, *, context: dict[str, Any] | None = None, **values: Any) -> str:
        operation_id = values.setdefault("operation_id", str(uuid.uuid4()))
        about = {"unique_id": operation_id, "context": context or {}}
        self.manager.engine.accept([propose(TABLE[verb], verb, operation_id, values, **about)])
        return str(operation_id)

    def do(self, verb: str, **values: Any) -> Operation:
        return self.end_of(self.ask(verb, **values))

    def end_of(self, operation_id: str) -> Operation:
        """Wait for an operation's end and return its record."""
        for entry in self.manager.engine.entries:
            if entry.operation_id == operation_id:
                assert entry.ended.wait(WAIT_S)
        operation = self.store.read(lambda tx: journal.find(tx, operation_id))
        assert operation is not None
        return operation

    def settle(self) -> None:
        """Wait until all that has been asked so far has ended."""
        for entry in self.manager.engine.entries:
            assert entry.ended.wait(WAIT_S)

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

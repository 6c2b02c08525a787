# SPDX-License-Identifier: Apache-2.0
"""The engine: runs what the journal holds, also after a restart.

It takes operations in, knows those that have not ended, and ends those that nobody wants any more. Who runs
when is up to the lanes, and how one runs to the runner. Nothing here is needed to remember what was asked:
lanes hold ids, the journal the rest.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.operation import Lane, Operation, OperationState
from compute_agent.operations import acceptance, turns
from compute_agent.operations.entry import Entry
from compute_agent.operations.lanes import Lanes
from compute_agent.operations.runner import Hooks, Runner
from compute_agent.operations.verbs import Verb
from compute_agent.store import host, journal
from compute_agent.store.database import Store, Transaction

TAKING_IN_S, TAKING_IN_ATTEMPTS = 0.1, 20


@dataclasses.dataclass(frozen=True)
class Task:
    """What is handed from the journal to the lanes.

    :param generation: that the request speaks for; 0 if it does not say
    :param preempts: what is queued or running for the instance is to be cancelled
    :param limit: the option that says how many of its kind run at once
    """

    operation: Operation
    generation: int
    preempts: bool
    limit: str | None


class Engine:
    """Runs operations.

    :param store: where the journal is
    :param table: the verbs
    :param manager: handed to each verb's function
    """

    def __init__(self, store: Store, table: Mapping[str, Verb], manager: Any) -> None:
        self.store = store
        self.table = table
        self.hooks = Hooks()
        self.stopping = concurrency.Event()
        self._key = store.insist(host.digest_key)
        self._entries: dict[str, Entry] = {}
        self._running: dict[str, Entry] = {}
        self._runner = Runner(store, manager, self.hooks)
        self._lanes = Lanes(table, self._run, store.roomy, self.stopping)
        self._idle = concurrency.Event()
        self._idle.set()

    # --- taking in -----------------------------------------------------------------------------------

    def accept(
        self, proposals: Iterable[acceptance.Proposal], also: Callable[[Transaction], object] | None = None
    ) -> list[acceptance.Accepted]:
        """Write ``proposals`` into the journal in one commit and set about those that are new.

        :param also: what else is to be in the commit
        :raises DiskFull: if there is no room; nothing was accepted
        """
        proposals = list(proposals)
        room = CONF.journal.max_queued - self.waiting

        def write(tx: Transaction) -> tuple[list[acceptance.Accepted], list[Task]]:
            if also is not None:
                also(tx)
            accepted, tasks = list[acceptance.Accepted](), list[Task]()
            for proposal in proposals:
                busy = len(tasks) >= room and not self._at_once(proposal.verb)
                one = acceptance.accept(tx, proposal, self._key, busy=busy)
                accepted.append(one)
                if one.fresh and one.operation is not None:
                    tasks.append(self._task(tx, one.operation, proposal.values))
            return accepted, tasks

        accepted, tasks = self.store.take_on(write)
        for task in tasks:
            self._enqueue(task)
        return accepted

    def _at_once(self, name: str) -> bool:
        verb = self.table.get(name)
        return verb is not None and verb.lane is Lane.CONTROL

    def recover(self) -> int:
        """Set about what an earlier run of the agent left; return how many operations that is."""

        def look(tx: Transaction) -> tuple[list[Operation], list[Task]]:
            # At one moment: what was begun since the start may end meanwhile, and has no arguments then.
            found = [(one, one.verb in self.table) for one in journal.live(tx)]
            unknown = [one for one, known in found if not known]
            return unknown, [
                self._task(tx, one, journal.arguments(tx, one.operation_id)) for one, known in found if known
            ]

        unknown, tasks = self.store.read(look)
        for operation in unknown:
            self._give_up(operation)
        for task in tasks:
            self._enqueue(task)
        return len(unknown) + len(tasks)

    def _give_up(self, operation: Operation) -> None:
        """End what another release accepted and this one does not know."""
        error = errors.UnknownVerb(f"this release has no verb {operation.verb}")
        self.store.insist(lambda tx: turns.give_up(tx, operation, error))

    def _task(self, tx: Transaction, operation: Operation, values: Mapping[str, Any]) -> Task:
        verb = self.table[operation.verb]
        preempts = verb.preempts and turns.timely(tx, operation, values)
        return Task(operation, turns.generation_of(values), preempts, verb.limit_of(values))

    def _enqueue(self, task: Task) -> None:
        operation = task.operation
        if operation.operation_id in self._entries:
            return
        entry = Entry(operation, self.table[operation.verb], task.generation, task.limit)
        if task.preempts:
            self._preempt(entry)
        self._entries[entry.operation_id] = entry
        self._lanes.add(entry)

    def _preempt(self, entry: Entry) -> None:
        others = [other for other in self.of_instance(entry.instance_uuid or "") if other.lane == entry.lane]
        if entry.generation and any(other.generation > entry.generation for other in others):
            return  # it is about an older placement, and will be refused
        for other in others:
            other.cancel()

    # --- running -------------------------------------------------------------------------------------

    def _run(self, entry: Entry) -> list[concurrency.Call[Any]]:
        """Run an operation to its end; return the native calls that it has given up."""
        if self.stopping.is_set() or entry.ended.is_set():
            return []
        entry.waiting_for = None
        self._running[entry.operation_id] = entry
        self._idle.clear()
        try:
            return self._runner.run(entry)
        finally:
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        self._entries.pop(entry.operation_id, None)
        self._running.pop(entry.operation_id, None)
        entry.ended.set()
        if not self._running:
            self._idle.set()

    def stop(self, timeout: float) -> bool:
        """Begin nothing more and let what runs end, for ``timeout`` seconds; return whether it did."""
        self.stopping.set()
        return not self._running or self._idle.wait(timeout)

    def refresh_limits(self) -> None:
        """Let in who fits after the configuration changed."""
        self._lanes.refresh_limits()

    # --- looking and cancelling ----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many operations stand in line."""
        return len(self._entries) - len(self._running)

    @property
    def running(self) -> int:
        """How many operations run."""
        return len(self._running)

    @property
    def entries(self) -> list[Entry]:
        """All operations that have not ended."""
        return list(self._entries.values())

    def of_instance(self, uuid: str) -> list[Entry]:
        """Return the operations on an instance that have not ended, in order."""
        return [entry for entry in self._entries.values() if entry.instance_uuid == uuid]

    def running_on(self, uuid: str) -> Entry | None:
        """Return the operation that runs on an instance in its lane, or None."""
        for entry in self._running.values():
            if entry.instance_uuid == uuid and entry.verb.lane is Lane.INSTANCE:
                return entry
        return None

    def overlay(self, operation: Operation) -> Operation:
        """Return ``operation`` with what is known only while it lives: step, progress, place in line."""
        entry = self._entries.get(operation.operation_id)
        return operation if entry is None else entry.overlay(operation, self._lanes.position(entry))

    def cancel(self, operation_id: str) -> Operation | None:
        """Cancel an operation and return it when it has ended; None if its id was never seen.

        :raises TooLate: if it ended otherwise, before or in spite of it
        """
        for _attempt in range(TAKING_IN_ATTEMPTS):
            if entry := self.ask_to_end(operation_id):
                steps.current().wait(entry.ended)
            operation = self.store.read(lambda tx: journal.find(tx, operation_id))
            if operation is None or operation.ended:
                break
            steps.current().sleep(TAKING_IN_S)  # it is in the journal, and about to be in its lane
        if operation is not None and operation.state is not OperationState.CANCELLED:
            raise errors.TooLate(f"operation {operation_id} has {operation.state}")
        return operation

    def ask_to_end(self, operation_id: str) -> Entry | None:
        """Cancel an operation without waiting for its end; None if it has ended or is not known."""
        entry = self._entries.get(operation_id)
        if entry is not None:
            entry.cancel()
            if entry.work is None and operation_id not in self._running and self._runner.end_unbegun(entry):
                self._forget(entry)
        return entry

# SPDX-License-Identifier: Apache-2.0
"""The engine: runs what the journal holds, also after a restart.

Operations of one instance run one after another, in the order in which they came; those of
different instances run side by side, as many as their limits let. Control verbs run at
once. Nothing here is needed to remember what was asked: lanes hold ids, the journal the rest.
"""

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import clock, errors
from compute_agent.model.operation import Lane, Operation, OperationState, Timing
from compute_agent.model.states import SETTLED
from compute_agent.operations import acceptance, turns
from compute_agent.operations.limits import Limit
from compute_agent.operations.logcontext import logging_as
from compute_agent.operations.verbs import Job, Outcome, Recovery, Unfinished, Verb
from compute_agent.store import host, journal
from compute_agent.store.database import Store, Transaction

LOG = logging.getLogger(__name__)

HOST_LANE = "host"
PROGRESS_INTERVAL_S = 1.0
TAKING_IN_S, TAKING_IN_ATTEMPTS = 0.1, 20


class Entry:
    """An operation that has not ended, as the engine holds it."""

    def __init__(
        self, operation: Operation, verb: Verb, generation: int = 0, limit: str | None = None
    ) -> None:
        self.operation_id = operation.operation_id
        self.instance_uuid = operation.instance_uuid
        self.request_id: str | None = operation.context.get("request_id")
        self.verb = verb
        self.limit = limit
        self.interrupted = operation.state is OperationState.RUNNING
        self.generation = generation
        self.queued_at = time.monotonic()
        self.told_at = 0.0
        self.unwanted = concurrency.Event()
        self.work: steps.Work | None = None
        self.begun, self.ended = concurrency.Event(), concurrency.Event()
        self.waiting_for: str | None = None
        self.events_told = 0
        self.overtaken = False
        """Whether guest or person has moved it on since the operation did: then that is what it is."""

    @property
    def lane(self) -> str:
        """The name of its lane."""
        return HOST_LANE if self.verb.lane is Lane.HOST else f"instance {self.instance_uuid}"

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to end."""
        return self.unwanted.is_set()

    def cancel(self) -> None:
        """Ask it to end: where it waits, or at its next step when it runs."""
        self.unwanted.set()
        if self.work is not None:
            self.work.cancel()


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
        self.before_end: Callable[[Entry, errors.ComputeError | None], object] = lambda entry, error: None
        self.before_again: Callable[[Entry], object] = lambda entry: None
        self.on_progress: Callable[[Operation], object] = lambda operation: None
        self._manager = manager
        self._key = store.insist(host.digest_key)
        self._entries: dict[str, Entry] = {}
        self._lanes: dict[str, collections.deque[Entry]] = {}
        self._running: dict[str, Entry] = {}
        self._unanswered: dict[str, list[concurrency.Call[Any]]] = {}
        self._general = Limit(lambda: CONF.journal.max_running)
        self._limits = {
            option: Limit(lambda option=option: getattr(CONF, option))  # type: ignore[misc]
            for verb in table.values()
            for option in {verb.limit, *verb.limits.values()} - {None}
        }
        self.stopping = self._stopping = concurrency.Event()
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

    def stop(self, timeout: float) -> bool:
        """Begin nothing more and let what runs end, for ``timeout`` seconds; return whether it did."""
        self._stopping.set()
        return not self._running or self._idle.wait(timeout)

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
        if entry.verb.lane is Lane.CONTROL:
            concurrency.spawn(self._run, entry)
            return
        lane = self._lanes.get(entry.lane)
        if lane is not None:
            lane.append(entry)
            return
        self._lanes[entry.lane] = collections.deque([entry])
        concurrency.spawn(self._drain, entry.lane)

    def _preempt(self, entry: Entry) -> None:
        others = [other for other in self.of_instance(entry.instance_uuid or "") if other.lane == entry.lane]
        if entry.generation and any(other.generation > entry.generation for other in others):
            return  # it is about an older placement, and will be refused
        for other in others:
            other.cancel()

    # --- running -------------------------------------------------------------------------------------

    def _drain(self, name: str) -> None:
        lane = self._lanes[name]
        while lane and not self._stopping.is_set():
            self._await_answers(lane[0])
            entry = lane.popleft()
            if entry.verb.detached:
                concurrency.spawn(self._run, entry)
                concurrency.wait_any((entry.begun, entry.ended, self._stopping))
            elif not entry.ended.is_set():
                self._take_turn(entry)
        if not lane:
            del self._lanes[name]

    def _await_answers(self, entry: Entry) -> None:
        """Wait for the native calls that earlier operations of the lane have given up.

        What takes the instance away is not held up: its end is also the end of what hangs.
        """
        for call in self._unanswered.pop(entry.lane, []):
            if not (entry.verb.preempts or entry.ended.is_set()):
                entry.waiting_for = "the answer to a call of an earlier operation"
                concurrency.wait_any((call.ended, entry.unwanted), None)
            if not call.ended.is_set():
                self._unanswered.setdefault(entry.lane, []).append(call)

    def _take_turn(self, entry: Entry) -> None:
        """Run an operation, when there is a place for it. No place is held for what it has given up."""
        with contextlib.ExitStack() as places:
            if entry.limit is not None:
                entry.waiting_for = f"a place within {entry.limit}"
                places.enter_context(self._limits[entry.limit].place(entry.unwanted))
            entry.waiting_for = "a free place to run"
            places.enter_context(self._general.place(entry.unwanted))
            if not entry.interrupted:  # what has begun may end, with the reserve
                entry.waiting_for = "room on the state disk"
                concurrency.wait_any((self.store.roomy, entry.unwanted))
            if given_up := self._run(entry):
                self._unanswered.setdefault(entry.lane, []).extend(given_up)

    def _run(self, entry: Entry) -> list[concurrency.Call[Any]]:
        """Run an operation to its end; return the native calls that it has given up."""
        if self._stopping.is_set() or entry.ended.is_set():
            return []
        entry.waiting_for = None
        self._running[entry.operation_id] = entry
        self._idle.clear()
        given_up: list[concurrency.Call[Any]] = []
        concurrency.ABANDONED.set(given_up)
        try:
            self._do(entry)
        except Unfinished:
            self.store.insist(lambda tx: turns.put_back(tx, entry.operation_id))
        except Exception as error:
            LOG.exception("operation %s could not be run", entry.operation_id)
            self._end_broken(entry, errors.unexpected(error))
        finally:
            self._forget(entry)
        return given_up

    def _forget(self, entry: Entry) -> None:
        self._entries.pop(entry.operation_id, None)
        self._running.pop(entry.operation_id, None)
        entry.ended.set()
        if not self._running:
            self._idle.set()

    def _do(self, entry: Entry) -> None:
        verb = entry.verb
        queued_ms = (time.monotonic() - entry.queued_at) * 1000
        if entry.cancelled and self._end_unbegun(entry):
            return
        if entry.interrupted:  # it may be refused to go on, and what it did is told all the same
            self._look(entry, lambda: self.before_again(entry))
        begun = self.store.insist(lambda tx: turns.begin(tx, verb, entry.operation_id, queued_ms))
        if begun.arguments is None:
            return
        entry.begun.set()
        started = time.monotonic()
        work = self._work(entry, begun)
        with steps.working(work), logging_as(begun.operation):
            error, outcome = self._perform(verb, Job(begun.operation, begun.arguments, begun.record, work))
            self._look(entry, lambda: self.before_end(entry, error))
            timing = Timing(queued_ms=begun.operation.timing.queued_ms, steps=work.timings)
            left = work.left_behind
            if error is not None and work.findings:
                outcome = Outcome(work.findings)
            if outcome is not None and outcome.state in SETTLED and entry.overtaken:
                outcome = dataclasses.replace(outcome, state=None, follow=True)
            end = self.store.insist(
                lambda tx: turns.end(tx, verb, begun.operation, error, outcome, timing, left)
            )
            LOG.info("%s has %s after %.3f s", verb.name, end.state, time.monotonic() - started)

    def _look(self, entry: Entry, look: Callable[[], object]) -> None:
        try:
            look()
        except Exception:
            LOG.exception("what operation %s did was not all taken down", entry.operation_id)

    def _end_unbegun(self, entry: Entry) -> bool:
        """End a cancelled operation that never ran; False for one that a crash interrupted."""

        def write(tx: Transaction) -> bool:
            operation = journal.find(tx, entry.operation_id)
            assert operation is not None
            if operation.state is OperationState.RUNNING:
                return False
            turns.end(tx, entry.verb, operation, errors.Cancelled("it was cancelled before its turn"))
            return True

        return self.store.insist(write)

    def _end_broken(self, entry: Entry, error: errors.ComputeError) -> None:
        """End an operation that the engine itself stumbled over, so that it does not stay for ever."""

        def write(tx: Transaction) -> None:
            operation = journal.find(tx, entry.operation_id)
            if operation is not None:
                turns.end(tx, entry.verb, operation, error)

        try:
            self.store.insist(write)
        except Exception:
            LOG.exception("operation %s stays in the journal until the next start", entry.operation_id)

    def _work(self, entry: Entry, begun: turns.Begun) -> steps.Work:
        assert begun.arguments is not None
        seconds = begun.arguments.timeout_s or entry.verb.timeout_s or CONF.operation_timeout
        entry.work = steps.Work(
            entry.operation_id,
            entry.verb.name,
            entry.instance_uuid,
            deadline=time.monotonic() + seconds,
            attempts=begun.operation.attempts,
            undo_only=begun.operation.attempts > CONF.journal.max_attempts
            or (entry.interrupted and entry.verb.recovery is Recovery.UNDONE),
            on_change=lambda work: self._tell_progress(entry),
        )
        if entry.cancelled:
            entry.work.cancel()
        return entry.work

    def _perform(self, verb: Verb, job: Job) -> tuple[errors.ComputeError | None, Outcome | None]:
        try:
            failpoints.hit(f"{verb.name}.begun")
            outcome = verb.perform(self._manager, job)
            with _leaving_all(verb, job):
                failpoints.hit(f"{verb.name}.done")
        except Unfinished:
            raise
        except errors.ComputeError as error:
            LOG.warning("%s failed: %s: %s", verb.name, error.code, error.message)
            return error, None
        except concurrency.TimedOut:
            return errors.Timeout(f"{verb.name} waited too long", step=job.work.failed_at), None
        except Exception as error:
            LOG.exception("%s failed in a way that it should not", verb.name)
            return errors.unexpected(error, step=job.work.failed_at), None
        return None, outcome

    def _tell_progress(self, entry: Entry) -> None:
        now = time.monotonic()
        if entry.told_at == 0.0:
            entry.told_at = now  # what is over within a second is not worth telling
        if now - entry.told_at >= PROGRESS_INTERVAL_S:
            entry.told_at = now
            concurrency.spawn(self._tell_progress_now, entry)

    def _tell_progress_now(self, entry: Entry) -> None:
        operation = self.store.read(lambda tx: journal.find(tx, entry.operation_id))
        if operation is not None and not operation.ended:
            self.on_progress(self.overlay(operation))

    # --- looking and stopping --------------------------------------------------------------------------

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
        if entry is None or operation.ended:
            return operation
        work = entry.work
        if work is None:
            return msgspec.structs.replace(
                operation, queue_position=self._position(entry), waiting_for=entry.waiting_for or "its turn"
            )
        return msgspec.structs.replace(
            operation,
            step=work.step,
            progress=work.progress,
            result=work.findings,
            waiting_for=work.waiting_for,
            deadline=_wall(work.deadline),
        )

    def _position(self, entry: Entry) -> int:
        lane = self._lanes.get(entry.lane, ())
        return next((n for n, other in enumerate(lane, start=1) if other is entry), 0)

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
            if entry.work is None and operation_id not in self._running and self._end_unbegun(entry):
                self._forget(entry)
        return entry

    def refresh_limits(self) -> None:
        """Let in who fits after the configuration changed."""
        for limit in (self._general, *self._limits.values()):
            limit.refresh()


@contextlib.contextmanager
def _leaving_all(verb: Verb, job: Job) -> Iterator[None]:
    """Whatever goes wrong once a verb has done its work undoes nothing of it: so it stays on record."""
    try:
        yield
    except Exception:
        job.work.left_behind.append(verb.name)
        raise


def _wall(deadline: float | None) -> str | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    return clock.timestamp(clock.after(left))

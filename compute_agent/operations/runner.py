# SPDX-License-Identifier: Apache-2.0
"""One operation from its turn to its end: begun, performed, ended, with whoever looks on.

However a verb goes wrong, its operation ends, and says why. Two things only leave it open: the agent stops
while it waits for others (it goes on after the next start), or its end can't be written (the journal has it
run again then).
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.operation import Operation, OperationState, Timing
from compute_agent.model.states import SETTLED
from compute_agent.operations import turns
from compute_agent.operations.entry import Entry
from compute_agent.operations.logcontext import logging_as
from compute_agent.operations.verbs import Job, Outcome, Recovery, Unfinished, Verb
from compute_agent.store import journal
from compute_agent.store.database import Store, Transaction

LOG = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 1.0


@dataclasses.dataclass
class Hooks:
    """Who looks on while operations run.

    :ivar before_again: called before an interrupted operation goes on
    :ivar before_end: called when a verb has done its work or failed, before its end is written
    :ivar on_progress: called with the record of one that gets on, once a second at the most
    """

    before_again: Callable[[Entry], object] = lambda entry: None
    before_end: Callable[[Entry, errors.ComputeError | None], object] = lambda entry, error: None
    on_progress: Callable[[Operation], object] = lambda operation: None


class Runner:
    """Runs operations whose turn has come.

    :param manager: handed to each verb's function
    """

    def __init__(self, store: Store, manager: Any, hooks: Hooks) -> None:
        self._store = store
        self._manager = manager
        self._hooks = hooks

    def run(self, entry: Entry) -> list[concurrency.Call[Any]]:
        """Run an operation to its end; return the native calls that it has given up."""
        given_up: list[concurrency.Call[Any]] = []
        concurrency.ABANDONED.set(given_up)
        try:
            self._do(entry)
        except Unfinished:
            self._store.insist(lambda tx: turns.put_back(tx, entry.operation_id))
        except Exception as error:
            LOG.exception("operation %s could not be run", entry.operation_id)
            self._end_broken(entry, errors.unexpected(error))
        return given_up

    def end_unbegun(self, entry: Entry) -> bool:
        """End a cancelled operation that never ran; False for one that a crash interrupted."""

        def write(tx: Transaction) -> bool:
            operation = journal.find(tx, entry.operation_id)
            assert operation is not None
            if operation.state is OperationState.RUNNING:
                return False
            turns.end(tx, entry.verb, operation, errors.Cancelled("it was cancelled before its turn"))
            return True

        return self._store.insist(write)

    def _do(self, entry: Entry) -> None:
        verb = entry.verb
        queued_ms = (time.monotonic() - entry.queued_at) * 1000
        if entry.cancelled and self.end_unbegun(entry):
            return
        if entry.interrupted:  # it may be refused to go on, and what it did is told all the same
            self._look(entry, lambda: self._hooks.before_again(entry))
        begun = self._store.insist(lambda tx: turns.begin(tx, verb, entry.operation_id, queued_ms))
        if begun.arguments is None:
            return
        entry.begun.set()
        started = time.monotonic()
        work = self._work(entry, begun)
        with steps.working(work), logging_as(begun.operation):
            error, outcome = self._perform(verb, Job(begun.operation, begun.arguments, begun.record, work))
            self._look(entry, lambda: self._hooks.before_end(entry, error))
            timing = Timing(queued_ms=begun.operation.timing.queued_ms, steps=work.timings)
            left = work.left_behind
            if error is not None and work.findings:
                outcome = Outcome(work.findings)
            if outcome is not None and outcome.state in SETTLED and entry.overtaken:
                outcome = dataclasses.replace(outcome, state=None, follow=True)
            end = self._store.insist(
                lambda tx: turns.end(tx, verb, begun.operation, error, outcome, timing, left)
            )
            LOG.info("%s has %s after %.3f s", verb.name, end.state, time.monotonic() - started)

    def _look(self, entry: Entry, look: Callable[[], object]) -> None:
        try:
            look()
        except Exception:
            LOG.exception("what operation %s did was not all taken down", entry.operation_id)

    def _end_broken(self, entry: Entry, error: errors.ComputeError) -> None:
        """End an operation that the engine itself stumbled over, so that it does not stay for ever."""

        def write(tx: Transaction) -> None:
            operation = journal.find(tx, entry.operation_id)
            if operation is not None:
                turns.end(tx, entry.verb, operation, error)

        try:
            self._store.insist(write)
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
        operation = self._store.read(lambda tx: journal.find(tx, entry.operation_id))
        if operation is not None and not operation.ended:
            self._hooks.on_progress(entry.overlay(operation))


@contextlib.contextmanager
def _leaving_all(verb: Verb, job: Job) -> Iterator[None]:
    """Whatever goes wrong once a verb has done its work undoes nothing of it: so it stays on record."""
    try:
        yield
    except Exception:
        job.work.left_behind.append(verb.name)
        raise

# SPDX-License-Identifier: Apache-2.0
"""Work that has parts: a list of steps, each with *done?*, *do* and *undo*.

One list serves everything. :func:`run` walks it forwards, skipping what is there already,
which is also how an operation goes on after a crash; where a step fails it walks backwards
and undoes all of it. :func:`plan` walks it without touching anything. Cancelling, deadlines,
progress, timings and failpoints happen at the boundaries, so no step knows of them.

A context variable carries the running operation (:class:`Work`) down to wherever a step's
code runs, native threads too, so that the driver contract's signatures stay as published.
"""

import contextvars
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from compute_agent import concurrency, failpoints
from compute_agent.model import errors
from compute_agent.model.operation import Progress, StepTiming

LOG = logging.getLogger(__name__)

UNDO_GRACE_S = 120.0
"""How long undoing may take when the operation's own time is over."""


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Step:
    """One part of some work.

    :param name: unique in its list, stable across releases: records and failpoints use it
    :param do: makes it so; may be repeated after a crash, whatever the crash left
    :param done: tells from the outside (hypervisor, disk) whether it is so already
    :param undo: makes it not so; safe to repeat, and safe when ``do`` never ran
    :param detail: for a plan: what ``do`` would do (the XML, the bytes to fetch)
    """

    name: str
    do: Callable[[], object]
    done: Callable[[], bool] = _never
    undo: Callable[[], object] | None = None
    detail: Callable[[], Mapping[str, Any]] | None = None


class Work:
    """The running operation, as seen from the code that does it.

    :param deadline: on the monotonic clock, in seconds; None for no deadline
    :param undo_only: undo the steps instead of doing them (a last resort after too many crashes)
    :param on_change: told when the step or the progress changed
    :ivar failed_at: the step, if any, in which an error came up first
    :ivar left_behind: the steps that could not be undone
    :ivar causes: lifecycle events that it causes besides those of its verb
    :ivar findings: what the operation's record has as its result while it runs, and also if it fails
    """

    def __init__(
        self,
        operation_id: str | None = None,
        verb: str = "none",
        instance_uuid: str | None = None,
        *,
        deadline: float | None = None,
        undo_only: bool = False,
        attempts: int = 1,
        on_change: Callable[["Work"], object] | None = None,
    ) -> None:
        self.operation_id = operation_id
        self.verb = verb
        self.instance_uuid = instance_uuid
        self.deadline = deadline
        self.undo_only = undo_only
        self.attempts = attempts
        self.cancel_requested = self._cancel = concurrency.Event()
        self.left_behind: list[str] = []
        self.findings: dict[str, Any] | None = None
        self.causes: frozenset[str] = frozenset()
        self.failed_at: str | None = None
        self.step: str | None = None
        self.progress: Progress | None = None
        self.waiting_for: str | None = None
        self.timings: list[StepTiming] = []
        self._on_change = on_change or (lambda work: None)

    @property
    def resumed(self) -> bool:
        """True when an earlier attempt was interrupted."""
        return self.attempts > 1

    def cancel(self) -> None:
        """Ask the work to stop. What is being undone goes on being undone."""
        self._cancel.set()

    def remaining(self, limit: float | None = None) -> float | None:
        """Return the seconds left until the deadline, at most ``limit``; None for no bound."""
        if self.deadline is None:
            return limit
        left = max(0.0, self.deadline - time.monotonic())
        return left if limit is None else min(left, limit)

    def check(self) -> None:
        """Say whether the work may go on.

        :raises Cancelled: if it was asked to stop
        :raises Timeout: if its deadline has passed
        """
        if self.cancel_requested.is_set():
            raise errors.Cancelled(f"{self.verb} was cancelled", step=self.step)
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise errors.Timeout(f"{self.verb} passed its deadline", step=self.step)

    def wait(self, event: concurrency.Event, timeout: float | None = None) -> bool:
        """Wait for ``event``, at most ``timeout`` seconds; return whether it came.

        :raises Cancelled: as soon as the work is cancelled
        :raises Timeout: when the work's deadline passes
        """
        if concurrency.wait_any((event, self.cancel_requested), self.remaining(timeout)) and event.is_set():
            return True
        self.check()
        return False

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass. Raises as :meth:`wait` does."""
        self.wait(concurrency.Event(), seconds)

    def report(self, done: int, total: int | None = None, unit: str = "bytes") -> None:
        """Tell how far the current step is."""
        self.progress = Progress(done=done, total=total, unit=unit)
        self._on_change(self)

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """Say what the work waits for, while it does."""
        self.waiting_for = reason
        self._on_change(self)
        try:
            yield
        finally:
            self.waiting_for = None
            self._on_change(self)

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Enter a step: it shows in the record while it runs, and its time is kept."""
        outer, self.step, self.progress = self.step, name, None
        self._on_change(self)
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self.failed_at = self.failed_at or name
            raise
        finally:
            moved = self.progress.done if self.progress and self.progress.unit == "bytes" else None
            elapsed = round((time.monotonic() - started) * 1000, 3)
            self.timings.append(StepTiming(name=name, ms=elapsed, bytes=moved))
            self.step = outer


_current: contextvars.ContextVar[Work | None] = contextvars.ContextVar("work", default=None)


def current() -> Work:
    """Return the running operation's work; one without limits where no operation runs."""
    return _current.get() or Work()


failpoints.while_hanging(lambda: current().check())


@contextmanager
def working(work: Work) -> Iterator[Work]:
    """Make ``work`` the current one."""
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)


def run(steps: Sequence[Step]) -> None:
    """Bring ``steps`` about, or leave nothing of them.

    :raises ComputeError: what a step raised, its name filled in, after all was undone;
        `Cancelled` and `Timeout` likewise
    """
    work = current()
    if work.undo_only:
        undo(steps)
        times = "once" if work.attempts == 2 else f"{work.attempts - 1} times"
        raise errors.Interrupted(f"{work.verb} was interrupted {times} and has been undone")
    for number, step in enumerate(steps):
        try:
            _advance(work, step)
        except Exception as error:
            _name(error, step)
            undo(steps if work.resumed else steps[: number + 1])  # an earlier attempt may have got further
            raise


def _advance(work: Work, step: Step) -> None:
    work.check()
    with work.within(step.name):
        failpoints.hit(f"{work.verb}.{step.name}.before")
        if not (step.done is not _never and step.done()):
            step.do()
        failpoints.hit(f"{work.verb}.{step.name}.after")


def _name(error: Exception, step: Step) -> None:
    if isinstance(error, errors.ComputeError) and error.step is None:
        error.step = step.name


def undo(steps: Sequence[Step]) -> None:
    """Undo ``steps``, last first. What fails is logged and does not keep the others."""
    work = current()
    asked, work.cancel_requested = work.cancel_requested, concurrency.Event()
    deadline = work.deadline
    if deadline is not None:
        work.deadline = max(deadline, time.monotonic() + UNDO_GRACE_S)
    try:
        for step in reversed(steps):
            if step.undo is not None:
                _undo_one(work, step, step.undo)
    finally:
        work.cancel_requested, work.deadline = asked, deadline


def _undo_one(work: Work, step: Step, action: Callable[[], object]) -> None:
    try:
        with work.within(f"undo {step.name}"):
            failpoints.hit(f"{work.verb}.{step.name}.undo")
            action()
    except Exception:
        LOG.exception("%s: step %s could not be undone", work.verb, step.name)
        work.left_behind.append(step.name)


def plan(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return what :func:`run` would do, without doing it: name, whether it is so already, detail."""
    return [
        {
            "step": step.name,
            "done": _seems_done(step),
            "undoable": step.undo is not None,
            **(dict(step.detail()) if step.detail else {}),
        }
        for step in steps
    ]


def _seems_done(step: Step) -> bool:
    """Whether a step is done already; one whose probe needs an earlier step's work is not."""
    try:
        return step.done is not _never and step.done()
    except errors.ComputeError:
        return False

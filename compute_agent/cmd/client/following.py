# SPDX-License-Identifier: Apache-2.0
"""Following an operation to its end: a bar on a terminal, a line per change elsewhere."""

import datetime
from typing import Any

from compute_agent.cmd.client import output
from compute_agent.cmd.client.problems import problem
from compute_agent.cmd.client.session import CANCELLED, DONE, FAILED, TIMED_OUT, Record, Session
from compute_agent.model import clock
from compute_agent.model.errors import Error, Timeout
from compute_agent.model.operation import OperationState

BAR = 24
CLEAR_LINE = "\r\x1b[K"
PLAIN_STEP = 10
"""Percent of progress between two lines where there is no terminal."""


class Follower:
    """Shows an operation's record whenever it was read anew. Used as a context manager."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tty = session.err.isatty()
        self._said: tuple[Any, ...] | None = None

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._tty:
            print(CLEAR_LINE, end="", file=self._session.err, flush=True)

    def show(self, record: Record) -> None:
        """Show how far it is."""
        if self._tty:
            columns = output.width(self._session.err) or 80
            print(f"{CLEAR_LINE}{bar(record)[: columns - 1]}", end="", file=self._session.err, flush=True)
            return
        percent = _percent(record)
        reached = None if percent is None else percent // PLAIN_STEP
        saying = (record["state"], record.get("step"), record.get("waiting_for"), reached)
        if saying != self._said:
            self._said = saying
            self._session.note(line(record))


def follow(session: Session, operation_id: str, timeout: float | None) -> int:
    """Wait for an operation's end, show its record, return the exit status."""
    try:
        with Follower(session) as follower:
            record = session.api.wait(operation_id, timeout=timeout, on_progress=follower.show)
    except TimeoutError as error:
        last = getattr(error, "record", None)
        if last is not None:
            session.show(last if session.settings.as_json else brief(last))
        session.complain(problem(error))
        return TIMED_OUT
    return end(session, record)


def end(session: Session, record: Record) -> int:
    """Show the record of an operation, and its error; return the exit status."""
    session.show(record if session.settings.as_json else brief(record))
    found = record.get("error")
    if found:
        session.complain(Error(**{name: found.get(name) for name in Error.__struct_fields__}))
    return status(record)


def status(record: Record) -> int:
    """Return the exit status that an operation's record means; one that has not ended is well so far."""
    if record["state"] == OperationState.CANCELLED:
        return CANCELLED
    if record["state"] != OperationState.FAILED:
        return DONE
    return TIMED_OUT if (record.get("error") or {}).get("code") == Timeout.code else FAILED


def brief(record: Record) -> Record:
    """Return what a person wants to see of an operation's record; errors are told apart from it."""
    left_out = {"error", "context", "timing", "progress"}
    if record["state"] != OperationState.ACCEPTED:
        left_out |= {"queue_position"}
    shown = {name: value for name, value in record.items() if name not in left_out}
    took = elapsed(record)
    return shown if took is None or not record.get("finished_at") else {**shown, "took": f"{took:.1f} s"}


def bar(record: Record) -> str:
    """Return an operation's progress as one line with a bar."""
    percent = _percent(record)
    filled = BAR * (percent or 0) // 100
    drawn = f"[{'#' * filled}{'.' * (BAR - filled)}]"
    number = "" if percent is None else f" {percent:3d} %"
    took = elapsed(record)
    return f"{drawn}{number} {line(record)}{'' if took is None else f' ({took:.0f} s)'}"


def line(record: Record) -> str:
    """Return an operation's progress as one line."""
    parts = [record["verb"], record["state"]]
    if record.get("step"):
        parts.append(record["step"])
    progress = record.get("progress") or {}
    if progress.get("total"):
        parts.append(f"{progress['done']}/{progress['total']} {progress['unit']}")
    if progress.get("eta_s") is not None:
        parts.append(f"{progress['eta_s']:.0f} s to go")
    if record.get("waiting_for"):
        parts.append(f"waits for {record['waiting_for']}")
    if record.get("queue_position"):
        parts.append(f"{record['queue_position']} before it")
    return output.safe("  ".join(str(part) for part in parts))


def elapsed(record: Record) -> float | None:
    """Return the seconds since an operation was accepted, or between that and its end."""
    try:
        began = clock.parse(record["accepted_at"])
        ended = clock.parse(record["finished_at"]) if record.get("finished_at") else clock.now()
    except (KeyError, ValueError):
        return None
    return max(0.0, (ended - began) / datetime.timedelta(seconds=1))


def _percent(record: Record) -> int | None:
    progress = record.get("progress") or {}
    if record["state"] == OperationState.SUCCEEDED:
        return 100
    if not progress.get("total"):
        return None
    return min(100, max(0, 100 * int(progress["done"]) // int(progress["total"])))

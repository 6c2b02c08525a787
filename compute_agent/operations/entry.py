# SPDX-License-Identifier: Apache-2.0
"""An operation that has not ended, as the engine holds it: what is known of it only while it lives.

Nothing here outlives the agent. What has to is in the journal; an entry can always be made from that.
"""

import time

import msgspec

from compute_agent import concurrency, steps
from compute_agent.model import clock
from compute_agent.model.operation import Lane, Operation, OperationState
from compute_agent.operations.verbs import Verb

HOST_LANE = "host"


class Entry:
    """An operation that has not ended.

    :param generation: that the request speaks for; 0 if it does not say
    :param limit: the option that says how many of its kind run at once
    """

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

    def overlay(self, operation: Operation, position: int = 0) -> Operation:
        """Return ``operation``, its record, with what the entry knows: step, progress, place in line.

        :param position: its place in line, if it has not begun
        """
        work = self.work
        if operation.ended or self.ended.is_set():
            return operation
        if work is None:
            return msgspec.structs.replace(
                operation, queue_position=position, waiting_for=self.waiting_for or "its turn"
            )
        return msgspec.structs.replace(
            operation,
            step=work.step,
            progress=work.progress,
            result=work.findings,
            waiting_for=work.waiting_for,
            deadline=_wall(work.deadline),
        )


def _wall(deadline: float | None) -> str | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    return clock.timestamp(clock.after(left))

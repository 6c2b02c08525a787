# SPDX-License-Identifier: Apache-2.0
"""An operation: one verb, from its journal entry to its end."""

import enum
from typing import Any

import msgspec

from compute_agent.model.clock import Timestamp
from compute_agent.model.errors import Error


class OperationState(enum.StrEnum):
    """accepted → running → one of the three ends."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = frozenset({OperationState.ACCEPTED, OperationState.RUNNING})
ENDED = frozenset(OperationState) - LIVE


class Origin(enum.StrEnum):
    """Who asked for an operation."""

    CALLER = "caller"
    AGENT = "agent"
    PEER = "peer"


class Lane(enum.StrEnum):
    """Where an operation queues."""

    INSTANCE = "instance"
    """first in, first out per instance"""
    CONTROL = "control"
    """at once: it acts on what runs"""
    HOST = "host"
    """first in, first out for the host"""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a step is. ``unit`` says what is counted; ``eta_s`` in seconds."""

    done: int = 0
    total: int | None = None
    unit: str = "steps"
    eta_s: float | None = None


class StepTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long one step took, in milliseconds, and the bytes that it moved."""

    name: str
    ms: float
    bytes: int | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Where an operation's time went."""

    queued_ms: float | None = None
    steps: list[StepTiming] = []


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """The record of an operation, as it is kept, asked for and told in events."""

    operation_id: str
    verb: str
    state: OperationState
    host: str
    host_id: str
    instance_uuid: str | None = None
    origin: Origin = Origin.CALLER
    step: str | None = None
    progress: Progress | None = None
    queue_position: int | None = None
    waiting_for: str | None = None
    attempts: int = 0
    accepted_at: Timestamp = ""
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    deadline: Timestamp | None = None
    parent_operation_id: str | None = None
    retry_of: str | None = None
    context: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    error: Error | None = None
    timing: Timing = Timing()

    @property
    def ended(self) -> bool:
        """True when no more will happen to it."""
        return self.state in ENDED

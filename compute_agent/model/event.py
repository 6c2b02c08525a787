# SPDX-License-Identifier: Apache-2.0
"""An event: one thing that happened, told to the world in order."""

import enum
from typing import Any

import msgspec

from compute_agent.model.clock import Timestamp


class EventType(enum.StrEnum):
    """Every type of event. Receivers ignore types that they don't know."""

    LIFECYCLE_STARTED = "instance.lifecycle.started"
    LIFECYCLE_STOPPED = "instance.lifecycle.stopped"
    LIFECYCLE_PAUSED = "instance.lifecycle.paused"
    LIFECYCLE_RESUMED = "instance.lifecycle.resumed"
    LIFECYCLE_SUSPENDED = "instance.lifecycle.suspended"
    LIFECYCLE_CRASHED = "instance.lifecycle.crashed"
    LIFECYCLE_POSTCOPY_STARTED = "instance.lifecycle.postcopy_started"
    LIFECYCLE_MIGRATION_COMPLETED = "instance.lifecycle.migration_completed"
    INSTANCE_UPDATED = "instance.updated"
    INSTANCE_REMOVED = "instance.removed"
    OPERATION_ACCEPTED = "operation.accepted"
    OPERATION_STARTED = "operation.started"
    OPERATION_SUCCEEDED = "operation.succeeded"
    OPERATION_FAILED = "operation.failed"
    OPERATION_CANCELLED = "operation.cancelled"
    OPERATION_REJECTED = "operation.rejected"
    OPERATION_PROGRESS = "operation.progress"
    HOST_REPORT = "host.report"
    HOST_HELLO = "host.hello"
    HOST_ENABLED = "host.enabled"
    HOST_DISABLED = "host.disabled"
    HOST_PROBLEM = "host.problem"
    HOST_STATE_RESET = "host.state_reset"
    HOST_ORPHAN_FOUND = "host.orphan_found"
    HOST_PLACEMENT_NEEDED = "host.placement_needed"


EPHEMERAL = frozenset({EventType.OPERATION_PROGRESS, EventType.HOST_REPORT})
"""Sent without being stored: they carry ``last_seq`` and expire on the broker."""


class Cause(enum.StrEnum):
    """Who made it happen."""

    OPERATION = "operation"
    GUEST = "guest"
    HOST = "host"
    UNKNOWN = "unknown"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One event as it is stored and sent; ``seq`` is None in an ephemeral one."""

    host: str
    host_id: str
    epoch: str
    seq: int | None
    occurred_at: Timestamp
    type: EventType
    instance_uuid: str | None = None
    generation: int | None = None
    revision: int | None = None
    operation_id: str | None = None
    request_id: str | None = None
    cause: Cause = Cause.UNKNOWN
    data: dict[str, Any] = {}
    last_seq: int | None = None

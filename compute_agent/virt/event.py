# SPDX-License-Identifier: Apache-2.0
"""What a driver tells of its own accord: a guest changed, the hypervisor came or went.

The transitions, their numbers and the accessors are those of the published contracts (Icehouse,
Mitaka, Queens), with *crashed* added: a guest whose hypervisor process died is not one that
was switched off.
"""

from compute_agent.model import clock

EVENT_LIFECYCLE_STARTED = 0
EVENT_LIFECYCLE_STOPPED = 1
EVENT_LIFECYCLE_PAUSED = 2
EVENT_LIFECYCLE_RESUMED = 3
EVENT_LIFECYCLE_SUSPENDED = 4
EVENT_LIFECYCLE_POSTCOPY_STARTED = 5
EVENT_LIFECYCLE_MIGRATION_COMPLETED = 6
EVENT_LIFECYCLE_CRASHED = 7

NAMES = {
    EVENT_LIFECYCLE_STARTED: "Started",
    EVENT_LIFECYCLE_STOPPED: "Stopped",
    EVENT_LIFECYCLE_PAUSED: "Paused",
    EVENT_LIFECYCLE_RESUMED: "Resumed",
    EVENT_LIFECYCLE_SUSPENDED: "Suspended",
    EVENT_LIFECYCLE_POSTCOPY_STARTED: "Postcopy started",
    EVENT_LIFECYCLE_MIGRATION_COMPLETED: "Migration completed",
    EVENT_LIFECYCLE_CRASHED: "Crashed",
}
"""Every transition and its name for people."""

ORIGINS = ("guest", "host", "unknown")
"""Who may be behind a transition: the guest itself, someone at the hypervisor, nobody knows."""


class Event:
    """Base of everything that :meth:`emit_event` takes.

    :param timestamp: when it happened, in seconds since the epoch; default: now
    """

    def __init__(self, timestamp: float | None = None) -> None:
        self.timestamp = clock.unix() if timestamp is None else timestamp

    def get_timestamp(self) -> float:
        """Return when it happened, in seconds since the epoch."""
        return self.timestamp

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.timestamp}>"


class InstanceEvent(Event):
    """Something about one instance.

    :param uuid: the instance's
    """

    def __init__(self, uuid: str, timestamp: float | None = None) -> None:
        super().__init__(timestamp)
        self.uuid = uuid

    def get_instance_uuid(self) -> str:
        """Return the instance's uuid."""
        return self.uuid

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.timestamp}, {self.uuid}>"


class LifecycleEvent(InstanceEvent):
    """A guest changed its power state.

    :param transition: one of the ``EVENT_LIFECYCLE_*`` numbers
    :param origin: who is behind it when no verb is: one of :data:`ORIGINS`
    :param detail: what the hypervisor says about it, for people
    :raises ValueError: if the transition or the origin is not a known one
    """

    def __init__(
        self,
        uuid: str,
        transition: int,
        timestamp: float | None = None,
        *,
        origin: str = "unknown",
        detail: str | None = None,
    ) -> None:
        super().__init__(uuid, timestamp)
        if transition not in NAMES:
            raise ValueError(f"not a lifecycle transition: {transition!r}")
        if origin not in ORIGINS:
            raise ValueError(f"not an origin: {origin!r}")
        self.transition = transition
        self.origin = origin
        self.detail = detail

    def get_transition(self) -> int:
        """Return the transition's number."""
        return self.transition

    def get_name(self) -> str:
        """Return the transition's name for people."""
        return NAMES[self.transition]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.timestamp}, {self.uuid} => {self.get_name()}>"


class HypervisorEvent(Event):
    """The driver lost the hypervisor, or has it back.

    :param connected: True when it is there (again)
    :param reason: why, for people
    """

    def __init__(self, connected: bool, reason: str, timestamp: float | None = None) -> None:
        super().__init__(timestamp)
        self.connected = connected
        self.reason = reason

    def get_name(self) -> str:
        """Return what happened, for people."""
        return "Connected" if self.connected else "Disconnected"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.timestamp}, {self.get_name()}: {self.reason}>"

# SPDX-License-Identifier: Apache-2.0
"""The states of an instance, the power states of a guest, and who may go where.

Two things are kept apart. The *state* is what the scheduler's verbs made of the instance;
the *power state* is what the hypervisor shows. What the guest does by itself is followed:
:data:`FOLLOWED` says which state an observed power state leads to.
"""

import enum

from compute_agent.model import errors


class InstanceState(enum.StrEnum):
    """What an instance is, as far as verbs are concerned."""

    BUILDING = "building"
    """spawn or evacuate is under way"""
    ACTIVE = "active"
    """should run, and runs"""
    PAUSED = "paused"
    """in memory, its processors held"""
    SUSPENDED = "suspended"
    """its memory is on disk"""
    STOPPED = "stopped"
    """off, disks kept"""
    RESCUED = "rescued"
    """runs from the rescue image, its own disk second"""
    MIGRATING = "migrating"
    """on its way to another host"""
    RESIZED = "resized"
    """at the destination, to be confirmed or reverted"""
    SOFT_DELETED = "soft_deleted"
    """off, disks kept until they are reclaimed"""
    ERROR = "error"
    """the last operation left it unfit; the record has the reason"""
    GONE = "gone"
    """a tombstone"""


class PowerState(enum.IntEnum):
    """What the hypervisor shows; the numbers are those of the published contracts."""

    NOSTATE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6
    SUSPENDED = 7


S = InstanceState

SETTLED = frozenset({S.ACTIVE, S.PAUSED, S.SUSPENDED, S.STOPPED})
"""States between which a guest, or a person at the hypervisor, may move an instance."""

TRANSITIONS: dict[InstanceState, frozenset[InstanceState]] = {
    S.BUILDING: SETTLED | {S.RESIZED, S.ERROR, S.GONE},
    S.ACTIVE: SETTLED | {S.RESCUED, S.MIGRATING, S.SOFT_DELETED, S.BUILDING, S.ERROR, S.GONE},
    S.PAUSED: SETTLED | {S.MIGRATING, S.ERROR, S.GONE},
    S.SUSPENDED: SETTLED | {S.ERROR, S.GONE},
    S.STOPPED: SETTLED | {S.RESCUED, S.MIGRATING, S.SOFT_DELETED, S.BUILDING, S.ERROR, S.GONE},
    S.RESCUED: SETTLED | {S.ERROR, S.GONE},
    S.MIGRATING: SETTLED | {S.RESIZED, S.ERROR, S.GONE},
    S.RESIZED: SETTLED | {S.ERROR, S.GONE},
    S.SOFT_DELETED: SETTLED | {S.ERROR, S.GONE},
    S.ERROR: SETTLED | {S.RESCUED, S.RESIZED, S.BUILDING, S.GONE},
    S.GONE: frozenset({S.BUILDING}) | SETTLED,
}
"""Where an instance may go from a state. Staying is always allowed."""

FOLLOWED: dict[PowerState, InstanceState] = {
    PowerState.RUNNING: S.ACTIVE,
    PowerState.PAUSED: S.PAUSED,
    PowerState.SHUTDOWN: S.STOPPED,
    PowerState.CRASHED: S.STOPPED,
    PowerState.SUSPENDED: S.SUSPENDED,
}
"""The state that an observed power state leads to, for an instance in a settled state."""


def change(current: InstanceState, to: InstanceState) -> InstanceState:
    """Return ``to`` if an instance may go there from ``current``. The only way to change a state.

    :raises InvalidState: naming both states
    """
    if to != current and to not in TRANSITIONS[current]:
        raise errors.InvalidState(f"an instance can't go from {current} to {to}")
    return to


def follow(current: InstanceState, observed: PowerState) -> InstanceState:
    """Return the state after the hypervisor showed ``observed``.

    A rescued, migrating or half-built instance keeps its state: there the power state
    alone does not tell what the instance is.
    """
    if current not in SETTLED:
        return current
    return change(current, FOLLOWED.get(observed, current))

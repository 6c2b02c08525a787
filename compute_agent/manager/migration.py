# SPDX-License-Identifier: Apache-2.0
"""Verbs that move an instance to another host. This release declares them and does none."""

from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.operation import Lane
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, Outcome, verb

RESIZED = frozenset({S.RESIZED})
MOVABLE = frozenset({S.ACTIVE, S.PAUSED, S.STOPPED})
OWNER = "the owner on record at both hosts"


def _not_yet(job: Job) -> Outcome:
    raise errors.UnsupportedOperation(f"{job.operation.verb} is not offered by this release")


@verb(
    "migrate",
    starts_from=MOVABLE,
    limit="max_concurrent_live_migrations",
    lifecycle=("migration_completed",),
    probe=OWNER,
)
def migrate(manager: Manager, job: Job) -> Outcome:
    """Move an instance to another host, while it runs or while it is off."""
    return _not_yet(job)


@verb("confirm_migration", starts_from=RESIZED, probe=OWNER)
def confirm_migration(manager: Manager, job: Job) -> Outcome:
    """Keep an instance at its destination and remove what is left at the source."""
    return _not_yet(job)


@verb("revert_migration", starts_from=RESIZED, probe=OWNER)
def revert_migration(manager: Manager, job: Job) -> Outcome:
    """Bring an instance back to its source, exactly as it was."""
    return _not_yet(job)


@verb(
    "live_migration_abort",
    lane=Lane.CONTROL,
    starts_from=frozenset({S.MIGRATING}),
    probe="the migration's job",
)
def live_migration_abort(manager: Manager, job: Job) -> Outcome:
    """Stop a live migration; the guest goes on at its source."""
    return _not_yet(job)


@verb(
    "live_migration_force_complete",
    lane=Lane.CONTROL,
    starts_from=frozenset({S.MIGRATING}),
    probe="the migration's job",
)
def live_migration_force_complete(manager: Manager, job: Job) -> Outcome:
    """Hold the guest so that its live migration can end."""
    return _not_yet(job)

# SPDX-License-Identifier: Apache-2.0
"""Verbs by which a cold migration or a resize is for good, or is taken back.

What was set aside at the old host is gone back to or removed, never both: the one is decided here, where the
instance is on record as resized, by a phase of the handshake that brought it (docs/migration.md).
"""

from typing import Any, ClassVar

from compute_agent.manager.manager import Manager
from compute_agent.manager.migration import LOOK_S, OFF_AND_ON, OWNER, go, has_begun
from compute_agent.manager.overdue import Overdue
from compute_agent.model import errors
from compute_agent.model.handshake import Input, Kind, Message, Phase
from compute_agent.model.states import InstanceState, PowerState
from compute_agent.operations.verbs import Job, Outcome, verb
from compute_agent.store import handshakes
from compute_agent.store.handshakes import HandshakeRecord


@verb("confirm_migration", starts_from=frozenset({InstanceState.RESIZED}), probe=OWNER)
def confirm_migration(manager: Manager, job: Job) -> Outcome:
    """Keep an instance at its destination and remove what is left at the source.

    That host is told until it has done so, which this does not wait for.
    """
    return Outcome(give_up_return(manager, job), follow=True)


def give_up_return(manager: Manager, job: Job) -> dict[str, Any]:
    """Decide that an instance does not go back to where it came from; return what there is to tell.

    What was set aside at this very host goes as well: the instance had come back by other ways.
    """
    uuid, here = job.instance.uuid, manager.identity.host
    for record in manager.store.read(lambda tx: handshakes.of_cold(tx, uuid)):
        if record.holds and record.source == here:
            manager.handshaking.go_on(record, Message.DISCARD)
        elif record.destination == here and (record.holds or record.phase is Phase.CONFIRMED):
            if record.holds:
                _confirm(manager, job, record)
            return {"migration_id": record.migration_id, "moved_from": record.source}
    return {}


def _confirm(manager: Manager, job: Job, record: HandshakeRecord) -> None:
    handshake = manager.handshaking.go_on(record, Input.CONFIRM)
    while handshake.phase is not Phase.CONFIRMED:
        handshake.changed.clear()
        job.work.wait(handshake.changed, LOOK_S)


@verb("revert_migration", starts_from=frozenset({InstanceState.RESIZED}), lifecycle=("stopped",), probe=OWNER)
def revert_migration(manager: Manager, job: Job) -> Outcome:
    """Bring an instance back to its source, exactly as it was."""
    uuid = job.instance.uuid
    job.work.causes = OFF_AND_ON
    kept = manager.store.read(lambda tx: handshakes.held(tx, uuid))
    begun = has_begun(manager, job)
    if kept is None and not begun:
        raise errors.MigrationRefused("it is not on record where the instance came from", retryable=False)
    reverts = kept.migration_id if kept is not None else None
    runs = job.instance.power_state is PowerState.RUNNING
    record = HandshakeRecord(
        migration_id=job.operation.operation_id,
        instance_uuid=uuid,
        kind=Kind.REVERT,
        phase=Phase.ASKED,
        source=manager.identity.host,
        destination=kept.source if kept is not None else "",
        runs=runs,
        instance=job.instance.instance,
        reverts=reverts,
        request={"reverts": reverts, "runs": runs},
    )
    return go(manager, job, record, job.instance.generation)


class Confirmer(Overdue):
    """Confirms cold migrations and resizes whose time is over."""

    state: ClassVar[InstanceState] = InstanceState.RESIZED
    verb: ClassVar[str] = "confirm_migration"
    option: ClassVar[str] = "resize_confirm_window"
    key: ClassVar[str] = "resized"

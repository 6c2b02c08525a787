# SPDX-License-Identifier: Apache-2.0
"""Verbs that move an instance to another host.

The operation at the source begins a handshake and waits until that has decided; the one at the destination,
which that agent asks of itself, likewise. What becomes of the guest is not theirs to decide
(docs/migration.md).
"""

import time
import uuid as uuids
from typing import Any

import msgspec

from compute_agent import concurrency
from compute_agent.manager.handshake import Handshake
from compute_agent.manager.manager import Manager
from compute_agent.model import arguments, errors
from compute_agent.model.arguments import MigrationMode, OnTimeout
from compute_agent.model.handshake import OFF, Input, Kind, Message, Phase
from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.operation import Lane, Origin
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.operations.acceptance import propose
from compute_agent.operations.verbs import Job, OnFailure, Outcome, verb
from compute_agent.store import handshakes
from compute_agent.store.handshakes import HandshakeRecord

MOVABLE = frozenset({S.ACTIVE, S.PAUSED, S.STOPPED})
OFF_AND_ON = frozenset({"stopped", "started"})
"""What is seen of a guest that is moved cold, where it was."""
OWNER = "the owner on record at both hosts"
LOOK_S = 0.5
DECISION_S = 60.0
"""For how long an abort waits for what becomes of the guest, in seconds."""
SOURCE_INFO = ("hypervisor_type", "hypervisor_version", "hypervisor_hostname", "cpu_info")
"""What the destination is told of the source's host."""


@verb(
    "migrate",
    starts_from=MOVABLE,
    working=S.MIGRATING,
    limit="max_concurrent_live_migrations",
    limits={"cold": "max_concurrent_cold_migrations"},
    lifecycle=("migration_completed",),
    probe=OWNER,
)
def migrate(manager: Manager, job: Job) -> Outcome:
    """Move an instance to another host, while it runs or while it is off."""
    if job.arguments.mode is MigrationMode.COLD:
        job.work.causes = OFF_AND_ON
    return go(manager, job, _record(manager, job), _generation(job))


def go(manager: Manager, job: Job, record: HandshakeRecord, generation: int) -> Outcome:
    """Have the instance leave this host, by a handshake that is on record already after a crash."""
    handshake = manager.handshaking.begin(record, Input.BEGIN)
    _await_decision(manager, job, handshake)
    dest = handshake.record.destination
    if handshake.phase is Phase.KEPT:
        raise _why_kept(handshake)
    return Outcome(
        {"moved_to": dest, "generation": generation},
        change=lambda record: msgspec.structs.replace(record, moved_to=dest),
        gone=True,
    )


def _record(manager: Manager, job: Job) -> HandshakeRecord:
    """Return the handshake that is to be; it is on record already if a crash interrupted the operation."""
    wanted: arguments.Migrate = job.arguments
    cold = wanted.mode is MigrationMode.COLD
    live = Kind.POSTCOPY if wanted.policy.post_copy else Kind.PRECOPY
    return HandshakeRecord(
        migration_id=job.operation.operation_id,
        instance_uuid=job.instance.uuid,
        kind=Kind.COLD if cold else live,
        phase=Phase.ASKED,
        source=manager.identity.host,
        destination=wanted.dest,
        runs=job.instance.power_state is PowerState.RUNNING,
        instance=_as_there(job),
        before=job.instance.instance if cold else None,
        request=_request(manager, job) if not has_begun(manager, job) else {},
    )


def has_begun(manager: Manager, job: Job) -> bool:
    """Return whether an earlier run has put the handshake on record: then the guest may be anywhere."""
    migration_id = job.operation.operation_id
    return manager.store.read(lambda tx: handshakes.find(tx, migration_id)) is not None


def _request(manager: Manager, job: Job) -> dict[str, Any]:
    """Return what the destination is told beside the instance; refuse what can't be."""
    wanted: arguments.Migrate = job.arguments
    if wanted.dest == manager.identity.host:
        raise errors.InvalidArguments("the instance is on that host already")
    _check_fits(wanted, job.instance.power_state)
    here = manager.driver.get_available_resource(manager.identity.host)
    return {
        "runs": job.instance.power_state is PowerState.RUNNING,
        "block_migration": wanted.block_migration,
        "resize": wanted.flavor is not None and wanted.flavor != job.instance.instance.flavor,
        "confirm": wanted.confirm and wanted.mode is MigrationMode.COLD,
        "policy": msgspec.to_builtins(wanted.policy),
        "source_info": msgspec.to_builtins({name: here[name] for name in SOURCE_INFO if name in here}),
    }


def _check_fits(wanted: arguments.Migrate, power_state: PowerState) -> None:
    """Say if a guest can't be moved in the way that is wanted, as it is."""
    up = power_state in (PowerState.RUNNING, PowerState.PAUSED)
    if wanted.mode is MigrationMode.LIVE and not up:
        raise errors.InvalidState(
            f"live migration needs a guest that runs or is paused; it is {power_state.name}"
        )
    if wanted.mode is MigrationMode.LIVE and wanted.flavor is not None:
        raise errors.InvalidArguments("a guest is not resized while it runs", hint="mode=cold")
    if wanted.mode is MigrationMode.COLD and power_state is PowerState.PAUSED:
        raise errors.InvalidState("a guest that is paused can't be shut down", hint="unpause it first")


def _as_there(job: Job) -> Instance:
    """Return the instance as the destination is to have it."""
    wanted: arguments.Migrate = job.arguments
    names = {
        "network_info": wanted.dest_network_info,
        "block_device_mapping": wanted.dest_block_device_mapping,
        "flavor": wanted.flavor,
    }
    fresh: dict[str, Any] = {name: value for name, value in names.items() if value is not None}
    return msgspec.structs.replace(job.instance.instance, generation=_generation(job), **fresh)


def _generation(job: Job) -> int:
    return max(job.instance.generation, job.arguments.generation or 0)


def _await_decision(manager: Manager, job: Job, handshake: Handshake) -> None:
    """Wait for the decision; once, ask for it when the operation is unwanted or its time is over."""
    urged = False
    while not handshake.decided:
        handshake.changed.clear()
        job.work.step = handshake.phase.value
        _tell_progress(manager, job, handshake)
        if not urged and (job.work.cancel_requested.is_set() or job.work.remaining() == 0):
            urged = True
            _urge(job, handshake)
        if not handshake.decided:
            awaited = (handshake.changed,) if urged else (handshake.changed, job.work.cancel_requested)
            concurrency.wait_any(awaited, LOOK_S)


def _urge(job: Job, handshake: Handshake) -> None:
    if job.work.cancel_requested.is_set():
        handshake.abort(errors.Cancelled("it was cancelled", step=handshake.phase.value))
    elif _on_timeout(job) is OnTimeout.FORCE:
        handshake.give(Input.FORCE)
    else:
        handshake.abort(errors.Timeout("the migration took too long", step=handshake.phase.value))


def _on_timeout(job: Job) -> OnTimeout:
    """What is to be done when it takes too long. Who takes a migration back has no choice."""
    wanted = job.arguments
    return wanted.policy.on_timeout if isinstance(wanted, arguments.Migrate) else OnTimeout.ABORT


def _tell_progress(manager: Manager, job: Job, handshake: Handshake) -> None:
    if handshake.progress is not None:
        job.work.report(handshake.progress.done, handshake.progress.total, handshake.progress.unit)
    elif handshake.phase in (Phase.MOVING, Phase.SWITCHING):
        status = manager.driver.get_migration_status(job.instance.instance)
        job.work.report(
            status.transferred_ram + status.transferred_disk, status.total_ram + status.total_disk
        )
    elif handshake.phase is Phase.GIVEN:
        job.work.waiting_for = f"the word of {handshake.record.destination}, which is the owner now"


def _why_kept(handshake: Handshake) -> errors.ComputeError:
    if handshake.record.error is not None:
        return errors.from_error(handshake.record.error)
    return errors.MigrationFailed("the transfer was interrupted; the guest stays here")


@verb(
    "receive_migration",
    makes=True,
    working=S.BUILDING,
    lifecycle=("started",),
    on_failure=OnFailure.REMOVE,
    probe=OWNER,
)
def receive_migration(manager: Manager, job: Job) -> Outcome:
    """Receive an instance that another host's agent migrates here. Agents ask it of themselves."""
    wanted: arguments.ReceiveMigration = job.arguments
    record = HandshakeRecord(
        migration_id=wanted.migration_id,
        instance_uuid=job.instance.uuid,
        kind=wanted.kind,
        phase=Phase.NONE,
        source=wanted.source,
        destination=manager.identity.host,
        runs=wanted.runs,
        instance=job.instance.instance,
        reverts=wanted.reverts,
        attempt=wanted.attempt,
        data=wanted.data,
    )
    handshake = manager.handshaking.begin(record, Message.PREPARE)
    while not handshake.decided or handshake.phase is Phase.NONE:
        handshake.changed.clear()
        job.work.step = handshake.phase.value
        job.work.waiting_for = f"the word of {wanted.source}, which is the owner"
        handshake.changed.wait(LOOK_S)
    if handshake.phase is Phase.DROPPED:
        failed = errors.MigrationFailed(f"the guest stays on {wanted.source}", retryable=False)
        raise errors.from_error(handshake.record.error) if handshake.record.error else failed
    return _received(manager, job, handshake)


def _received(manager: Manager, job: Job, handshake: Handshake) -> Outcome:
    """Return what became of an instance that came: resized if it is to be confirmed, else as it runs."""
    wanted: arguments.ReceiveMigration = job.arguments
    result: dict[str, Any] = {"moved_from": wanted.source}
    if wanted.kind not in OFF:
        if handshake.record.error is not None:
            result["warning"] = f"the guest is off: {handshake.record.error.message}"
        return Outcome(result, follow=True)
    if handshake.record.error is not None:
        result["warning"] = f"the guest was not started: {handshake.record.error.message}"
    seen = manager.driver.get_info(job.instance.instance).state

    def change(record: InstanceRecord) -> InstanceRecord:
        return msgspec.structs.replace(record, power_state=seen)

    if wanted.kind is Kind.REVERT:
        return Outcome(result, follow=True, change=change)
    if wanted.confirm:
        _confirm_next(manager, job, wanted.migration_id)
    return Outcome(result, state=S.RESIZED, change=change)


def _confirm_next(manager: Manager, job: Job, migration_id: str) -> None:
    """Have it confirmed at its next turn, by an operation whose id follows from the migration's."""
    operation_id = str(uuids.uuid5(uuids.UUID(migration_id), "confirm_migration"))
    values = {
        "operation_id": operation_id,
        "instance_uuid": job.instance.uuid,
        "parent_operation_id": migration_id,
    }
    about = {"origin": Origin.AGENT, "unique_id": operation_id}
    confirm = manager.table["confirm_migration"]
    manager.engine.accept([propose(confirm, confirm.name, operation_id, values, **about)])


def _leaving(manager: Manager, job: Job) -> Handshake:
    handshake = manager.handshaking.from_here(job.instance.uuid)
    if handshake is None:
        raise errors.TooLate("it is settled where the guest goes on")
    return handshake


@verb(
    "live_migration_abort",
    lane=Lane.CONTROL,
    starts_from=frozenset({S.MIGRATING}),
    probe="the migration's job",
)
def live_migration_abort(manager: Manager, job: Job) -> Outcome:
    """Stop a live migration; the guest goes on at its source."""
    handshake = _leaving(manager, job)
    handshake.abort(errors.Cancelled("the migration was aborted"))
    deadline = time.monotonic() + DECISION_S
    while handshake.phase not in (Phase.KEEPING, Phase.KEPT, Phase.GIVEN) and time.monotonic() < deadline:
        job.work.wait(handshake.changed, LOOK_S)
    if handshake.phase not in (Phase.KEEPING, Phase.KEPT):
        raise errors.TooLate(f"the migration is {handshake.phase}")
    return Outcome({"migration_id": handshake.record.migration_id})


@verb(
    "live_migration_force_complete",
    lane=Lane.CONTROL,
    starts_from=frozenset({S.MIGRATING}),
    probe="the migration's job",
)
def live_migration_force_complete(manager: Manager, job: Job) -> Outcome:
    """Hold the guest so that its live migration can end."""
    handshake = _leaving(manager, job)
    if handshake.phase not in (Phase.MOVING, Phase.SWITCHING):
        raise errors.InvalidState(f"nothing is transferred yet: the migration is {handshake.phase}")
    handshake.give(Input.FORCE)
    return Outcome({"migration_id": handshake.record.migration_id})

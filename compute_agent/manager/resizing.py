# SPDX-License-Identifier: Apache-2.0
"""What the actions of a handshake mean for a cold migration or a resize, and for taking one back.

Each may be repeated, and has succeeded only when its effect is there. None decides anything. In both kinds
the source shuts the guest down and sets it aside; it is started again only where something was begun.
"""

import json
import logging
import time
import uuid as uuids
from typing import Any

import msgspec

from compute_agent import concurrency, steps
from compute_agent.manager.manager import Manager, block_device_info, request_context
from compute_agent.manager.moving import ACTION_S, Destination, Source, agreed, forget_check
from compute_agent.model import errors
from compute_agent.model.arguments import ReceiveMigration
from compute_agent.model.handshake import Fact, Kind, Phase
from compute_agent.model.instance import Instance
from compute_agent.model.operation import Progress
from compute_agent.store import handshakes
from compute_agent.store.handshakes import HandshakeRecord
from compute_agent.virt.info import LiveMigrateData

LOG = logging.getLogger(__name__)

LONG_ACTION_S = 3600.0
"""How long an action may take before it is tried again, in seconds: disks are made larger, images fetched."""
SHUTDOWN_S, SHUTDOWN_RETRY_S = 60.0, 10.0
"""How long a guest gets to shut down, and how often it is asked, as with ``power_off``."""
AWAY = (errors.DestinationUnreachable, errors.HypervisorUnavailable, errors.Timeout)
"""What passes when somebody is back: the transfer goes on then, for as long as the operation lasts."""
ATTEMPTS = 3
"""How often what may go better next time is tried otherwise: the guest is off meanwhile."""
KEPT_FROM_RETURN = ("metadata", "security_groups", "generation")
"""What an instance keeps of what has changed since, when a migration is taken back."""


class ColdSource(Source):
    """Where the guest comes from."""

    action_s = LONG_ACTION_S

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.attempt = uuids.uuid4().hex
        self._sending: steps.Work | None = None
        self._interrupted: errors.ComputeError | None = None
        self._failures = 0

    @property
    def progress(self) -> Progress | None:  # type: ignore[override]
        """How far the disks are."""
        return self._sending.progress if self._sending is not None else None

    def check(self, data: dict[str, Any]) -> dict[str, Any]:
        """See whether the disks may go, by what the destination has found."""
        theirs = agreed(data)
        if self.record.kind is Kind.REVERT:
            return data
        instance, there = self.instance, self.record.instance
        flavor = there.flavor if there is not None else None
        with self.work(ACTION_S):
            found = self.driver.check_can_send_disks(
                request_context(), instance, theirs, block_device_info(instance), flavor
            )
        moves = not (found.is_shared_instance_path or found.is_volume_backed)
        if moves and self.record.request.get("block_migration") is False:
            raise errors.MigrationRefused("the hosts share no storage", hint="leave block_migration out")
        return dict(msgspec.to_builtins(found))

    def look(self) -> Fact:
        """As at either end; who has given up goes on with nothing."""
        seen = super().look()
        if seen in (Fact.RUNS, Fact.HELD, Fact.OFF):
            self.problem = self.problem or self._interrupted
        return Fact.OFF if seen is Fact.PART and self.problem is not None else seen

    def start(self) -> None:
        """Begin, or go on, unless that was given up. How it goes is seen, not told."""
        if not self.transferring and self.problem is None:
            self.transferring = True
            self._sending = self.work_of(None)
            concurrency.spawn(self._send, self._sending, self.instance, self.data)

    def _send(self, work: steps.Work, instance: Instance, data: LiveMigrateData) -> None:
        try:
            with steps.working(work):
                self._set_aside(instance)
                self.driver.send_disks(request_context(), instance, data)
        except errors.ComputeError as error:
            self._failed(error)
        except concurrency.TimedOut:
            self._failed(errors.DestinationUnreachable("the transfer hangs"))
        except Exception as error:
            LOG.exception("migration %s: the transfer failed", self.record.migration_id)
            self._failed(errors.unexpected(error))
        else:
            self._ended()

    def _set_aside(self, instance: Instance) -> None:
        there = self.record.instance or instance
        self.driver.migrate_disk_and_power_off(
            request_context(),
            instance,
            self.record.destination,
            instance.flavor if self.record.kind is Kind.REVERT else there.flavor,
            instance.network_info,
            block_device_info(instance),
            SHUTDOWN_S if self.record.runs else 0.0,
            SHUTDOWN_RETRY_S,
        )

    def _failed(self, error: errors.ComputeError) -> None:
        """Take down why; what may go better next time is tried again, after a pause."""
        self.attempt = uuids.uuid4().hex
        self._failures += not isinstance(error, AWAY)
        if error.retryable and self._failures < ATTEMPTS:
            LOG.warning("migration %s: the transfer is interrupted: %s", self.record.migration_id, error)
            self._interrupted = error
            self.transferring = False
        else:
            self.problem = self.problem or error
            self._ended()

    def abort_job(self) -> None:
        """Stop the transfer, if there is one."""
        if self.transferring and self._sending is not None:
            self._sending.cancel()

    def force_job(self) -> None:
        """Nothing: it takes as long as it takes."""

    switch = force_job

    def resume(self) -> None:
        """Let the guest be here what it was, if anything was done to it."""
        if not self.record.begun:
            return
        instance = self.instance

        def put_back(power_on: bool) -> None:
            self.driver.finish_revert_migration(
                request_context(),
                instance,
                instance.network_info,
                block_device_info(instance),
                power_on=power_on,
            )

        self.let_run(put_back)

    def clean(self) -> None:
        """What was set aside stays, for a revert; after one nothing does."""
        if self.record.kind is Kind.REVERT:
            self._remove(self.instance)

    def discard(self) -> None:
        """Remove what was set aside: nobody goes back to it."""
        if self.record.before is not None:
            self._remove(self.record.before)

    def _remove(self, instance: Instance) -> None:
        self.driver.confirm_migration(request_context(), self.record, instance, instance.network_info)


class ColdDestination(Destination):
    """Where the guest goes to."""

    action_s = LONG_ACTION_S
    _served: str | None = None

    def prepare(self) -> dict[str, Any]:
        """Open a way for the disks, anew for each attempt to send them."""
        if self.record.phase is Phase.PREPARED and self._served == self.attempt:
            return self.record.data
        attempt, context, data = self.attempt, request_context(), self.data
        with self.work(self.action_s):
            made = self.driver.receive_disks(context, self.instance, data)
            forget_check(self.manager, self.record.data)
        self._served = attempt
        return dict(msgspec.to_builtins(made))

    def resume(self) -> None:
        """Make the guest from what came, or put back what was set aside here; let it run if it did."""
        self.let_run(self._put_back if self.record.kind is Kind.REVERT else self._finish)

    def _put_back(self, power_on: bool) -> None:
        instance = self.instance
        self.driver.finish_revert_migration(
            request_context(), instance, instance.network_info, block_device_info(instance), power_on=power_on
        )

    def _finish(self, power_on: bool) -> None:
        instance, data = self.instance, self.data
        self.driver.finish_migration(
            request_context(),
            self.record,
            instance,
            json.dumps(data.details.get("disks", [])),
            instance.network_info,
            instance.image,
            data.resize,
            block_device_info(instance),
            power_on=power_on,
        )

    def clean(self) -> None:
        """Remove what came, and what was made for it."""
        reverting = self.record.kind is Kind.REVERT
        empty = LiveMigrateData(instance_uuid=self.record.instance_uuid, cold=True, reverting=reverting)
        data = self.data if self.record.data else empty
        self.driver.drop_received(request_context(), self.instance, data)
        forget_check(self.manager, self.record.data, self.record.migration_id)


def check_destination(manager: Manager, asked: ReceiveMigration) -> dict[str, Any]:
    """See whether a guest may come to this host, or come back to it.

    :raises ComputeError: if it may not
    """
    here = manager.identity.host
    kept = manager.store.read(lambda tx: handshakes.held(tx, asked.instance.uuid))
    deadline = time.monotonic() + ACTION_S
    with steps.working(steps.Work(asked.migration_id, "migrate", asked.instance.uuid, deadline=deadline)):
        if asked.kind is Kind.REVERT:
            data = _check_return(manager, _to_return(kept, asked.reverts, asked.source))
        elif kept is not None:
            raise errors.MigrationRefused(
                f"what was set aside here for migration {kept.migration_id} is not given up yet",
                retryable=True,
            )
        else:
            data = manager.driver.check_can_receive_disks(
                request_context(), asked.instance, asked.source_info
            )
    data.source_host, data.dest_host = asked.source, here
    data.cold, data.resize, data.reverting = True, asked.resize, asked.kind is Kind.REVERT
    data.bandwidth_mib = asked.policy.bandwidth_mib
    return dict(msgspec.to_builtins(data))


def _check_return(manager: Manager, kept: HandshakeRecord) -> LiveMigrateData:
    assert kept.before is not None
    problems = manager.driver.validate_parameters(kept.before) if kept.runs else None
    if problems:
        raise errors.MigrationRefused("; ".join(problem.message for problem in problems))
    return LiveMigrateData(instance_uuid=kept.instance_uuid)


def _to_return(kept: HandshakeRecord | None, reverts: str | None, source: str) -> HandshakeRecord:
    """Return the migration that is to be taken back.

    :raises MigrationRefused: if nothing is set aside here of it, or another host asks
    """
    if kept is None or kept.before is None or (kept.migration_id, kept.destination) != (reverts, source):
        raise errors.MigrationRefused("nothing is set aside here to go back to", retryable=False)
    return kept


def as_it_was(manager: Manager, values: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be received; of a guest that comes back, as it was when it went.

    :raises MigrationRefused: if nothing is set aside here of that
    """
    if values.get("kind") != Kind.REVERT.value:
        return values
    uuid = str(values["instance"]["uuid"])
    kept = manager.store.read(lambda tx: handshakes.held(tx, uuid))
    kept = _to_return(kept, values.get("reverts"), values["source"])
    newer = {name: values["instance"][name] for name in KEPT_FROM_RETURN if name in values["instance"]}
    return {**values, "instance": {**msgspec.to_builtins(kept.before), **newer}, "runs": kept.runs}

# SPDX-License-Identifier: Apache-2.0
"""What the actions of a handshake mean for a live migration, at its source and at its destination.

Each may be repeated, and has succeeded only when its effect is there. None decides anything.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from compute_agent import concurrency, steps
from compute_agent.manager.manager import Manager, block_device_info, request_context
from compute_agent.model import errors
from compute_agent.model.arguments import ReceiveMigration
from compute_agent.model.handshake import Do, Fact, Input, Kind
from compute_agent.model.instance import Instance
from compute_agent.model.operation import Progress
from compute_agent.store import instances
from compute_agent.store.handshakes import HandshakeRecord
from compute_agent.virt.info import LiveMigrateData

LOG = logging.getLogger(__name__)

ACTION_S = 120.0
"""How long an action of the driver may take before it is tried again, in seconds."""
LOOK_S = 10.0
AGAIN_S = 0.5
REST_S = 10.0
"""How long the last of a post-copy may take to come to notice when its source is gone, in seconds."""

Given = Callable[[Input], object]


class End:
    """What both ends have in common.

    :cvar at_source: which of them it is

    :param give: takes what happens here by itself
    :ivar record: the handshake; its owner keeps it up to date
    :ivar problem: why the guest is not moved, as far as it is known here
    :ivar attempt: to send disks, by the source; at the destination the one that it was asked for last
    :ivar progress: how far the transfer is, where the agent itself makes it
    """

    at_source = False
    action_s = ACTION_S
    progress: Progress | None = None

    def __init__(self, manager: Manager, record: HandshakeRecord, give: Given) -> None:
        self.manager = manager
        self.driver = manager.driver
        self.record = record
        self.give = give
        self.problem: errors.ComputeError | None = None
        self.attempt = record.attempt

    @property
    def instance(self) -> Instance:
        """The instance as this host knows it."""
        uuid = self.record.instance_uuid
        record = self.manager.store.read(lambda tx: instances.find(tx, uuid))
        instance = self.record.instance if record is None or record.gone else record.instance
        if instance is None:
            raise errors.InstanceNotFound(f"no instance {uuid} on record")
        return instance

    @property
    def data(self) -> LiveMigrateData:
        """What the drivers have agreed on."""
        return agreed(self.record.data)

    def work(self, seconds: float | None) -> contextlib.AbstractContextManager[Any]:
        """Let the driver work for the migration, for so many seconds."""
        return steps.working(self.work_of(seconds))

    def work_of(self, seconds: float | None) -> steps.Work:
        """Return what the driver works with for the migration, for so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        about = self.record
        return steps.Work(about.migration_id, "migrate", about.instance_uuid, deadline=deadline)

    def act(self, action: Do) -> None:
        """Do ``action``.

        :raises ComputeError: if it did not succeed
        """
        with self.work(self.action_s):
            getattr(self, action.name.lower())()

    def let_run(self, make: Callable[[bool], object]) -> None:
        """Have a guest that was off be here again, and run if it did; if it can't run, have it here all the
        same: who has it may do something about it.

        :param make: given whether to start it
        """
        try:
            make(self.record.runs)
        except (errors.HypervisorUnavailable, errors.Timeout):
            raise
        except errors.ComputeError as error:
            if not self.record.runs:
                raise
            LOG.warning("migration %s: the guest can't be started: %s", self.record.migration_id, error)
            make(False)
            self.problem = self.problem or error

    def look(self) -> Fact:
        """Return what there is of the guest; ``UNKNOWN`` where that can't be found out."""
        try:
            with self.work(LOOK_S):
                return self.driver.see_migration(self.instance, self.at_source)
        except (errors.ComputeError, concurrency.TimedOut) as error:
            LOG.warning("migration %s: the guest can't be seen: %s", self.record.migration_id, error)
            return Fact.UNKNOWN


class Source(End):
    """Where the guest comes from."""

    at_source = True
    transferring = False

    def look(self) -> Fact:
        """As at either end; while this agent's own call has not come back, a job is at work."""
        if self.transferring:
            return Fact.BUSY
        return super().look()

    def check(self, data: dict[str, Any]) -> dict[str, Any]:
        """See whether the guest may go, by what the destination has found; return it with what this end adds.

        :raises ComputeError: if it may not go
        """
        instance, theirs = self.instance, agreed(data)
        with self.work(ACTION_S):
            found = self.driver.check_can_live_migrate_source(
                request_context(), instance, theirs, block_device_info(instance)
            )
        return dict(msgspec.to_builtins(found))

    def start(self) -> None:
        """Begin the transfer. How it goes is seen, not told."""
        self.transferring = True
        concurrency.spawn(self._transfer, self.instance, self.data)

    def _transfer(self, instance: Instance, data: LiveMigrateData) -> None:
        def nothing(*_arguments: Any) -> None:
            """What is to be done after the transfer is decided by what there is then."""

        try:
            with self.work(None):
                self.driver.live_migration(
                    request_context(),
                    instance,
                    self.record.destination,
                    nothing,
                    nothing,
                    data.block_migration,
                    data,
                )
        except errors.ComputeError as error:
            self.problem = self.problem or error
        except Exception as error:
            LOG.exception("migration %s: the transfer failed", self.record.migration_id)
            self.problem = self.problem or errors.unexpected(error)
        finally:
            self._ended()

    def _ended(self) -> None:
        """The transfer is over, however that was."""
        self.transferring = False
        self.give(Input.TICK)

    def abort_job(self) -> None:
        """Stop the transfer, if there is one that can be stopped."""
        self._urge(self.driver.live_migration_abort, Input.ABORT)

    def force_job(self) -> None:
        """Let the transfer end, whatever that costs the guest."""
        self._urge(self.driver.live_migration_force_complete, Input.FORCE)

    def _urge(self, member: Callable[[Instance], object], again: Input) -> None:
        """Do it now or, while the hypervisor has not come to the job yet, ask for it once more."""
        try:
            member(self.instance)
        except errors.InvalidState:
            if self.transferring:
                concurrency.spawn(self._give_later, again)

    def _give_later(self, again: Input) -> None:
        concurrency.sleep(AGAIN_S)
        self.give(again)

    switch = force_job

    def mend(self) -> None:
        """Go on with a post-copy that broke off. Whether that helps is seen, not told."""
        if not self.transferring:
            self.start()

    def resume(self) -> None:
        """Let the guest go on here, if it did before and was left held."""
        seen = self.look()
        if seen is Fact.UNKNOWN:
            raise errors.HypervisorUnavailable("the guest can't be seen")
        if seen is Fact.HELD and self.record.runs:
            self.driver.unpause(self.instance)

    def end(self) -> None:
        """Nothing: what is left of the guest is off, and goes with the rest."""

    def clean(self) -> None:
        """Remove what is left: the domain, volumes' connections, copied disks, interfaces."""
        instance = self.instance
        info = block_device_info(instance)
        self.driver.post_live_migration(request_context(), instance, info, self.data)
        self.driver.post_live_migration_at_source(request_context(), instance, instance.network_info)


class Destination(End):
    """Where the guest goes to."""

    def prepare(self) -> dict[str, Any]:
        """Make what the guest needs; return what the source's driver is to know.

        :raises ComputeError: if it may not come
        """
        instance, data, context = self.instance, self.data, request_context()
        info = block_device_info(instance)
        with self.work(ACTION_S):
            made = self.driver.pre_live_migration(context, instance, info, instance.network_info, None, data)
            self.driver.cleanup_live_migration_destination_check(context, data)
        return dict(msgspec.to_builtins(made or data))

    def resume(self) -> None:
        """Let the guest go on here, as it did at the source."""
        instance = self.instance
        self.driver.post_live_migration_at_destination(
            request_context(),
            instance,
            instance.network_info,
            bool(self.record.data.get("block_migration")),
            block_device_info(instance),
        )
        forget_check(self.manager, self.record.data)  # that of a request which was repeated

    def end(self) -> None:
        """End what is here, if a part of its memory is missing, which is lost. It can be booted again.

        That nobody at the destination has noticed that nothing comes any more proves nothing: it may hang.
        """
        until = time.monotonic() + REST_S
        while (seen := self.look()) is Fact.PARTIAL and time.monotonic() < until:
            steps.current().sleep(AGAIN_S)
        if seen is not Fact.PARTIAL:
            return
        self.driver.power_off(self.instance)
        lost = "the connection broke while the rest of its memory followed, and the source is gone"
        self.problem = self.problem or errors.MigrationFailed(lost)

    def clean(self) -> None:
        """Remove what was made for the guest, and what arrived of it."""
        instance = self.instance
        self.driver.rollback_live_migration_at_destination(
            request_context(),
            instance,
            instance.network_info,
            block_device_info(instance),
            True,
            self.data if self.record.data else None,
        )
        forget_check(self.manager, self.record.data)


def agreed(data: Mapping[str, Any]) -> LiveMigrateData:
    """Return what another host's agent sent, by its type.

    :raises InvalidArguments: if it is not of that
    """
    try:
        return msgspec.convert(data, LiveMigrateData)
    except msgspec.ValidationError as error:
        raise errors.InvalidArguments(f"the migration's data make no sense: {error}") from None


def check_destination(manager: Manager, asked: ReceiveMigration) -> dict[str, Any]:
    """See whether a guest may come to this host; return what its source's driver is to know.

    :raises ComputeError: if it may not come
    """
    driver, here = manager.driver, manager.identity.host
    work = steps.Work(
        asked.migration_id, "migrate", asked.instance.uuid, deadline=time.monotonic() + ACTION_S
    )
    with steps.working(work):
        data = driver.check_can_live_migrate_destination(
            request_context(),
            asked.instance,
            asked.source_info,
            driver.get_available_resource(here),
            asked.block_migration,
        )
    data.source_host, data.dest_host = asked.source, here
    data.held = asked.kind is not Kind.POSTCOPY
    data.post_copy = asked.kind is Kind.POSTCOPY
    data.max_downtime_ms, data.bandwidth_mib = asked.policy.max_downtime_ms, asked.policy.bandwidth_mib
    data.auto_converge = asked.policy.auto_converge
    return dict(msgspec.to_builtins(data))


def forget_check(manager: Manager, data: Mapping[str, Any], migration_id: str | None = None) -> None:
    """Remove what a check has left, as far as that can be done.

    :param migration_id: finds it where the check's answer was lost
    """
    work = steps.Work(migration_id, "migrate", deadline=time.monotonic() + ACTION_S)
    with contextlib.suppress(errors.ComputeError, concurrency.TimedOut), steps.working(work):
        known = agreed({"instance_uuid": "", **data})
        manager.driver.cleanup_live_migration_destination_check(request_context(), known)

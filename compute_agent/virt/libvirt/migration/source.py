# SPDX-License-Identifier: Apache-2.0
"""Live migration at the source: the checks, the transfer, and the end of what was given away."""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import libvirt

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.info import LiveMigrateData, MigrationStatus
from compute_agent.virt.libvirt import faults
from compute_agent.virt.libvirt.connection import Connections, RawEvent
from compute_agent.virt.libvirt.migration import (
    checks,
    details,
    guestxml,
    handover,
    look,
    plan,
    storage,
    transfer,
)
from compute_agent.virt.libvirt.migration.base import LibvirtMigrationBase
from compute_agent.virt.libvirt.migration.details import Details, MovedDisk, Source
from compute_agent.virt.libvirt.migration.postcopy import LibvirtBrokenPostCopy
from compute_agent.virt.libvirt.migration.transfer import Transfer
from compute_agent.virt.libvirt.volumes import connect as volumes
from compute_agent.virt.virtapi import VirtAPI

LOG = logging.getLogger(__name__)

_THREADS = 100
"""Each transfer takes one for as long as it lasts; how many there are is the engine's business."""
_LOOK_S = 0.2
_SWITCHING_LOOK_S = 0.003
_ANSWER_S = 10.0
_TLB_IS_TOLD = 9_000_000
_QEMU_DOWNTIME_MS = 300
"""With what QEMU begins when it is told nothing."""
_DECISION_MS = 60
"""How long a guest that has arrived is held until its host has been told that it is its own."""
_SWITCHED = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED)


class LibvirtMigrationSource(LibvirtBrokenPostCopy):
    """The source's part of the live migration concern."""

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self._transfers: dict[str, Transfer] = {}
        self._transfer_threads = concurrency.NativePool("libvirt-migration", _THREADS)
        self._transfer_connections = Connections(CONF.libvirt.connection_uri)
        self._relay.also = self._hear

    # --- before --------------------------------------------------------------------------------------

    def check_can_live_migrate_source(
        self,
        context: Context,
        instance: Instance,
        dest_check_data: LiveMigrateData,
        block_device_info: BlockDeviceInfo = None,
    ) -> LiveMigrateData:
        """See whether a guest may go, and whether its disks have to be copied."""
        found, data = details.read(dest_check_data), dest_check_data
        to = details.destination(data)
        with checks.refusing():
            checks.policy(data)
            checks.libvirt_fits(self._host.ask(look.libvirt_version), to.libvirt)
            root = self._movable(instance)
            disks = self._own_disks(instance, root)
            data.is_shared_instance_path = self._on_disk(storage.sees_mark, self._instances_path, to.mark)
            data.is_volume_backed = not disks
            data.block_migration = checks.storage(data, found.asked, disks, to)
            _check_keys(disks)
            source = self._as_source(instance, root, disks, data.block_migration)
        return details.write(data, Details(asked=found.asked, destination=to, source=source))

    def _movable(self, instance: Instance) -> Any:
        """Return the XML of a guest that is up, and that nothing else is done to."""
        self._check_ours(instance)
        fact = self.see_migration(instance, at_source=True)
        if fact not in (Fact.RUNS, Fact.HELD):
            state = "something is done to the guest" if fact is Fact.BUSY else "the instance is off"
            raise errors.MigrationRefused(f"{state}: only a guest that is up can be migrated live")
        root = guestxml.parsed(self._host.ask_guest(instance.uuid, _live_xml))
        passed = guestxml.passed_through(root)
        if passed:
            raise errors.MigrationRefused(f"the guest has devices of the host: {', '.join(passed)}")
        return root

    def _own_disks(self, instance: Instance, root: Any) -> list[MovedDisk]:
        found = []
        for disk in guestxml.own_disks(root, self._paths(instance).directory):
            capacity, _, _ = self._host.act_guest(instance.uuid, _block_info, disk.target)
            moved = MovedDisk(
                target=disk.target,
                name=disk.name,
                format="qcow2" if disk.format == "qcow2" else "raw",
                size_bytes=capacity,
                used_bytes=self._on_disk(storage.allocated, disk.chain),
                encrypted=disk.encrypted,
            )
            found.append(moved)
        return found

    def _as_source(self, instance: Instance, root: Any, disks: list[MovedDisk], copied: bool) -> Source:
        names = {disk.name for disk in disks}
        paths = self._paths(instance)
        beside = self._on_disk(storage.carried, paths, names) if copied else []
        return Source(
            runs=self.see_migration(instance, at_source=True) is Fact.RUNS,
            machine=guestxml.machine(root),
            cpu=guestxml.cpu(root),
            disks=disks if copied else [],
            files=beside,
            console=self._on_disk(storage.spoken, paths) if copied else None,
        )

    # --- the move ------------------------------------------------------------------------------------

    def _hear(self, raw: RawEvent) -> None:
        """Look closely from the moment on in which the guest was stopped here."""
        current = self._transfers.get(raw.uuid)
        if current is not None and (raw.event, raw.detail) == _SWITCHED:
            current.switch()

    def live_migration(
        self,
        context: Context,
        instance: Instance,
        dest: str,
        post_method: Callable[..., Any],
        recover_method: Callable[..., Any],
        block_migration: bool = False,
        migrate_data: LiveMigrateData | None = None,
    ) -> None:
        """Move a running guest to ``dest``, where it arrives held. Goes on with a transfer under way, also
        with a post-copy that broke off."""
        arguments = (context, instance, dest, block_migration, migrate_data)
        try:
            self._move(instance, migrate_data)
        except errors.ComputeError as error:
            LOG.warning("instance %s was not moved to %s: %s", instance.uuid, dest, error.message)
            recover_method(*arguments)
            if isinstance(error, errors.MigrationFailed | errors.Cancelled | errors.Timeout):
                raise
            raise errors.MigrationFailed(
                f"the migration to {dest} failed: {error.message}", evidence=error.evidence
            ) from error
        post_method(*arguments)

    def _move(self, instance: Instance, data: LiveMigrateData | None) -> None:
        if data is None:
            raise errors.InvalidArguments("the migration has not been checked")
        uuid = instance.uuid
        current = self._transfers[uuid] = Transfer(self._downtimes(instance, data), bool(data.post_copy))
        fact = self.see_migration(instance, at_source=True)
        if fact in (Fact.RUNS, Fact.HELD):
            found = self._host.act_guest(instance.uuid, transfer.definitions)
            self._begin(uuid, found.name, plan.moving(found, self._instances_path, data), current)
        elif fact is Fact.SPENT:
            self._begin(uuid, self._host.ask_guest(uuid, _name), plan.mending(data), current)
        self._follow(instance, current)
        fact = self._settled(instance)
        if not current.called or current.ended.is_set():
            self._sum_up(uuid, current, fact)
        if fact is not Fact.MOVED:
            raise current.error or errors.MigrationFailed("the guest was not moved", retryable=True)

    def _sum_up(self, uuid: str, current: Transfer, fact: Fact) -> None:
        """Take down how it ended, with libvirt's counters as far as there are any."""
        found: dict[str, Any] = {}
        with contextlib.suppress(errors.ComputeError, concurrency.TimedOut):
            found = self._host.ask_guest(uuid, transfer.statistics, True) if fact is Fact.MOVED else {}
        current.note(found, "completed" if fact is Fact.MOVED else current.ending)

    def _downtimes(self, instance: Instance, data: LiveMigrateData) -> list[tuple[float, int]]:
        options = CONF.libvirt
        if data.post_copy:
            return []
        delay = options.live_migration_downtime_delay * max(1.0, instance.flavor.memory_mb / 1024)
        last = data.max_downtime_ms or options.live_migration_downtime
        if self._misses_writes():
            return transfer.downtimes(last, 2, delay, _QEMU_DOWNTIME_MS - _DECISION_MS)
        return transfer.downtimes(last, options.live_migration_downtime_steps, delay)

    def _misses_writes(self) -> bool:
        """Return whether it is an emulated processor of a QEMU before 9.0.

        That misses some of the writes of a guest that runs on while its memory is copied once more (its TLB
        is not told), and smaller limits than QEMU's own make for more such rounds.
        """
        return self._facts().virt_type == "qemu" and self._host.ask(_qemu_version) < _TLB_IS_TOLD

    def _begin(self, uuid: str, name: str, wanted: plan.Plan, current: Transfer) -> None:
        current.name, current.called = name, True
        concurrency.spawn(self._call, uuid, wanted, current)

    def _call(self, uuid: str, wanted: plan.Plan, current: Transfer) -> None:
        """Have libvirt move the guest; it takes as long as it takes."""

        def move(connection: libvirt.virConnect) -> None:
            transfer.start(connection.lookupByUUIDString(uuid), wanted)

        try:
            self._transfer_threads.call(self._transfer_connections.use, move)
            self._sum_up(uuid, current, Fact.MOVED)
        except libvirt.libvirtError as error:
            current.fail(error)
        except faults.ConnectionLost as error:
            current.error = errors.HypervisorUnavailable(
                "the connection to libvirt broke during the migration", evidence=str(error)
            )
        finally:
            current.end()

    def _follow(self, instance: Instance, current: Transfer) -> None:
        """Watch until the transfer has ended; end it when the operation is over."""
        work = steps.current()
        over: errors.ComputeError | None = None
        while not self._has_ended(instance, current):
            try:
                if not current.switching:
                    self._watch(instance.uuid, current)
                pause = _SWITCHING_LOOK_S if current.switching else _LOOK_S
                if over is None:
                    work.wait(current.news, pause)
                else:
                    current.news.wait(pause)
                current.news.clear()
            except (errors.Cancelled, errors.Timeout) as error:
                if over is not None:
                    raise
                over = error
                self._give_up(instance)
        if over is not None and current.error is not None:
            current.error = over

    def _has_ended(self, instance: Instance, current: Transfer) -> bool:
        """Return whether it has: by the answer to our call; if it is not ours, by what libvirt shows.

        The answer comes late, when QEMU is gone; that the guest was handed over can be seen before. It is not
        waited for when nothing more comes of a post-copy: it may wait for the destination, which hangs until
        it is told.
        """
        if not current.called:
            return self.see_migration(instance, at_source=True) is not Fact.BUSY
        if current.ended.is_set() or self._is_handed_over(instance.uuid):
            return True
        current.given_up = current.post_copy and self.see_migration(instance, at_source=True) is Fact.OFF
        return current.given_up

    def _is_handed_over(self, uuid: str) -> bool:
        """Return whether the end of a transfer is certain before libvirt answers, which takes it a while."""
        current = self._transfers.get(uuid)
        if current is None or not current.switching or current.ended.is_set():
            return False
        current.handed_over = current.handed_over or self._on_disk(handover.is_certain, current.name, uuid)
        return current.handed_over

    def see_migration(self, instance: Instance, at_source: bool) -> Fact:
        """As at both ends. While libvirt ends what it has handed over it is not asked: it'd not answer."""
        if at_source and self._is_handed_over(instance.uuid):
            return Fact.MOVED
        return super().see_migration(instance, at_source)

    def _watch(self, uuid: str, current: Transfer) -> None:
        """Take down the progress and let the downtime grow. What can't be asked now is asked later."""
        try:
            found = self._host.ask_monitor(uuid, transfer.statistics)
            if found.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
                return
            current.note(found)
            due = current.due_downtime()
            if due is not None:
                self._host.act_guest(uuid, transfer.set_downtime, due)
        except (errors.HypervisorUnavailable, errors.InstanceNotFound, errors.HypervisorError) as error:
            LOG.debug("the migration of %s can't be looked at: %s", uuid, error.message)
        status = current.status
        steps.current().report(
            status.transferred_ram + status.transferred_disk, status.total_ram + status.total_disk
        )

    def _give_up(self, instance: Instance) -> None:
        try:
            self.live_migration_abort(instance)
        except errors.ComputeError as error:
            LOG.info("the migration of %s could not be stopped: %s", instance.uuid, error.message)

    def _settled(self, instance: Instance) -> Fact:
        """Return what came of it, once libvirt is done with the guest."""
        work = steps.current()
        while (fact := self.see_migration(instance, at_source=True)) is Fact.BUSY:
            work.sleep(_LOOK_S)
        return fact

    def live_migration_abort(self, instance: Instance) -> None:
        """Stop a live migration; the guest stays here."""
        self._host.act_guest(instance.uuid, transfer.abort)

    def live_migration_force_complete(self, instance: Instance) -> None:
        """Switch a post-copy over; else hold the guest, so that the rest of its memory can be copied."""
        if self.see_migration(instance, at_source=True) is not Fact.BUSY:
            raise errors.InvalidState("the instance is not being migrated")
        self._host.act_guest(instance.uuid, transfer.force)

    def get_migration_status(self, instance: Instance) -> MigrationStatus:
        """Return how far a live migration is, or how the last one ended."""
        found = self._transfers.get(instance.uuid)
        return found.status if found else MigrationStatus()

    # --- after ---------------------------------------------------------------------------------------

    def post_live_migration(
        self,
        context: Context,
        instance: Instance,
        block_device_info: BlockDeviceInfo,
        migrate_data: LiveMigrateData | None = None,
    ) -> None:
        """At the source: end and forget the copy here, and remove the disks that were copied.

        Only after the destination has taken the guest: whatever is here then never runs again.
        """
        self._await_answer(instance.uuid)
        if LibvirtMigrationBase.see_migration(self, instance, at_source=True) in (Fact.HELD, Fact.SPENT):
            self._stop_if_there(instance.uuid)
        if not self._is_off(instance.uuid):
            raise errors.InvalidState("the guest runs here: it was not given away")
        self._forget_stall(instance.uuid)
        self._undefine(instance.uuid)
        volumes.disconnect_all(self, instance)
        if migrate_data is None or not migrate_data.is_shared_instance_path:
            self.delete_instance_files(instance)

    def _await_answer(self, uuid: str) -> None:
        """Wait until libvirt is done with a guest that it has handed over; a while if it was given up."""
        current, until = self._transfers.get(uuid), time.monotonic() + _ANSWER_S
        while current is not None and current.called and not current.ended.is_set():
            if current.given_up and time.monotonic() > until:
                break
            steps.current().wait(current.ended, _LOOK_S)

    def post_live_migration_at_source(
        self, context: Context, instance: Instance, network_info: NetworkInfo
    ) -> None:
        """Nothing is left to do: a tap device goes with its QEMU."""


def _name(domain: libvirt.virDomain) -> str:
    return str(domain.name())


def _qemu_version(connection: libvirt.virConnect) -> int:
    return int(connection.getVersion())


def _check_keys(disks: list[MovedDisk]) -> None:
    """Their keys are this host's: no QEMU elsewhere could open them while it takes the guest in."""
    secret = [disk.target for disk in disks if disk.encrypted]
    if secret:
        raise errors.MigrationRefused(
            f"encrypted disks of the host can't be moved while the guest runs: {', '.join(secret)}",
            hint="migrate it cold",
        )


def _live_xml(domain: libvirt.virDomain) -> str:
    return str(domain.XMLDesc(0))


def _block_info(domain: libvirt.virDomain, target: str) -> tuple[int, int, int]:
    capacity, allocation, physical = domain.blockInfo(target, 0)
    return int(capacity), int(allocation), int(physical)

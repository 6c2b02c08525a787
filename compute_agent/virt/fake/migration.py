# SPDX-License-Identifier: Apache-2.0
"""Live migration between fake hosts of one process.

The guest is held at the source before it runs at the destination, and struck at the source after, so
that at any instant at most one copy runs.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt import event as virt_event
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.fake import design, moving, network, peers, storage
from compute_agent.virt.fake.cold_migration import FakeColdMigration
from compute_agent.virt.info import LiveMigrateData, MigrationStatus

LOG = logging.getLogger(__name__)

MARK = "shared-storage-test"


@dataclasses.dataclass
class Move:
    """A live migration under way at its source."""

    total: int
    started: float = dataclasses.field(default_factory=time.monotonic)
    wake: concurrency.Event = dataclasses.field(default_factory=concurrency.Event)
    aborted: bool = False

    def status(self, name: str) -> MigrationStatus:
        """Return how far it is."""
        done = self.total if name == "completed" else 0
        return MigrationStatus(
            status=name,
            total_ram=self.total,
            transferred_ram=done,
            remaining_ram=self.total - done,
            elapsed_ms=int((time.monotonic() - self.started) * 1000),
        )


class FakeMigration(FakeColdMigration):
    """The migration concern. ``transfer_time`` is how long a live migration takes, in seconds."""

    def __init__(self, virtapi: Any) -> None:
        super().__init__(virtapi)
        self.transfer_time = CONF.fake.transfer_time
        self._moves: dict[str, Move] = {}
        self._ended: dict[str, MigrationStatus] = {}
        self._marks: set[str] = set()

    # --- before --------------------------------------------------------------------------------------

    def check_can_live_migrate_destination(
        self,
        context: Context,
        instance: Instance,
        src_compute_info: Mapping[str, Any],
        dst_compute_info: Mapping[str, Any],
        block_migration: bool | None = False,
        disk_over_commit: bool = False,
    ) -> LiveMigrateData:
        """See whether a guest may come."""
        if src_compute_info.get("hypervisor_type") != "fake":
            raise errors.MigrationRefused("the source is of another kind")
        self.compare_cpu(src_compute_info.get("cpu_info"))
        if instance.uuid in self.hypervisor.world.domains:
            raise errors.MigrationRefused("the guest is here already")
        problems = self.validate_parameters(instance)
        if problems:
            raise errors.MigrationRefused("; ".join(problem.message for problem in problems))
        return LiveMigrateData(
            instance_uuid=instance.uuid,
            source_host=str(src_compute_info.get("hypervisor_hostname", "")),
            dest_host=self.host,
            block_migration=True if block_migration is None else block_migration,
            disk_over_commit=disk_over_commit,
        )

    def cleanup_live_migration_destination_check(
        self, context: Context, dest_check_data: LiveMigrateData
    ) -> None:
        """Nothing was left: the check changes nothing."""

    def check_can_live_migrate_source(
        self,
        context: Context,
        instance: Instance,
        dest_check_data: LiveMigrateData,
        block_device_info: BlockDeviceInfo = None,
    ) -> LiveMigrateData:
        """See whether a guest may go. Fake hosts share no storage, so its disks have to be copied."""
        domain = self.hypervisor.get(instance.uuid)
        if not domain.is_up:
            raise errors.MigrationRefused(f"the instance is off: it is {domain.power.name}")
        dest_check_data.is_volume_backed = all(d.kind == "volume" for d in domain.devices.values())
        if not (dest_check_data.block_migration or dest_check_data.is_volume_backed):
            raise errors.MigrationRefused("the hosts share no storage", hint="set block_migration")
        return dest_check_data

    def check_instance_shared_storage_local(self, context: Context, instance: Instance) -> Any:
        """Leave a mark."""
        if instance.uuid not in self.hypervisor.world.directories:
            return None
        mark = f"{self.host}/{instance.uuid}/{MARK}"
        self._marks.add(mark)
        return mark

    def check_instance_shared_storage_remote(self, context: Context, data: Any) -> bool:
        """Return whether another host's mark can be seen here."""
        return data in self._marks

    def check_instance_shared_storage_cleanup(self, context: Context, data: Any) -> None:
        """Remove the mark."""
        self._marks.discard(data)

    def pre_live_migration(
        self,
        context: Context,
        instance: Instance,
        block_device_info: BlockDeviceInfo,
        network_info: NetworkInfo,
        disk_info: Any,
        migrate_data: LiveMigrateData | None,
    ) -> LiveMigrateData | None:
        """Get ready for a guest: its directory, volumes and interfaces."""
        network.check(network_info or ())
        wanted = design.design(instance, instance.image, block_device_info)
        if instance.uuid not in self.hypervisor.world.directories:
            storage.check_room(self.hypervisor, wanted.size)
            moving.make_room(self.hypervisor, instance.uuid)
        network.plug(self, instance, network_info or ())
        for volume, kind in wanted.volumes.items():
            storage.connect(self.hypervisor, instance.uuid, volume, kind)
        return migrate_data

    # --- the move ------------------------------------------------------------------------------------

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
        """Move a running guest to ``dest``."""
        arguments = (context, instance, dest, block_migration, migrate_data)
        domain = self.hypervisor.get(instance.uuid)
        move = self._moves[instance.uuid] = Move(domain.mem_kb * 1024)
        try:
            self._transfer(instance, dest, move, migrate_data is not None and migrate_data.held)
        except Exception as error:
            self._ended[instance.uuid] = move.status("cancelled" if move.aborted else "failed")
            del self._moves[instance.uuid]
            recover_method(*arguments)
            if isinstance(error, errors.Cancelled | errors.Timeout | errors.MigrationFailed):
                raise
            raise errors.MigrationFailed(f"the migration to {dest} failed: {error}") from error
        self._ended[instance.uuid] = move.status("completed")
        del self._moves[instance.uuid]
        post_method(*arguments)

    def _transfer(self, instance: Instance, dest: str, move: Move, held: bool) -> None:
        if not self.hypervisor.get(instance.uuid).is_up:
            raise errors.MigrationFailed("the instance is off")
        self._meet("live_migration.transfer", instance.uuid)
        steps.current().wait(move.wake, self.transfer_time)
        if move.aborted:
            raise errors.MigrationFailed("the migration was aborted", retryable=False)
        with peers.reached(dest) as there:
            moving.hand_over(self.hypervisor, there, instance.uuid, dest if held else None)
        self.hypervisor.tell(instance.uuid, virt_event.EVENT_LIFECYCLE_MIGRATION_COMPLETED)

    def live_migration_abort(self, instance: Instance) -> None:
        """Stop a live migration."""
        move = self._move(instance)
        move.aborted = True
        move.wake.set()

    def live_migration_force_complete(self, instance: Instance) -> None:
        """Let a live migration end at once."""
        self._move(instance).wake.set()

    def _move(self, instance: Instance) -> Move:
        move = self._moves.get(instance.uuid)
        if move is None:
            raise errors.InvalidState("the instance is not being migrated")
        return move

    def get_migration_status(self, instance: Instance) -> MigrationStatus:
        """Return how far a live migration is, or how the last one ended."""
        under_way = self._sendings.get(instance.uuid)
        if under_way is not None:
            return under_way.status()
        move = self._moves.get(instance.uuid)
        if move is not None:
            return move.status("running")
        return self._ended.get(instance.uuid, MigrationStatus())

    def see_migration(self, instance: Instance, at_source: bool) -> Fact:
        """Return what there is of a guest that is migrated."""
        self.poll_outside()
        domain = self.hypervisor.find(instance.uuid)
        files = self._directory(instance.uuid)
        if instance.uuid in self._moves or instance.uuid in self._sendings:
            return Fact.BUSY
        if domain is None and at_source and files.aside is not None:
            return Fact.MOVED if files.sent else Fact.PART
        if domain is None:
            return Fact.OFF if at_source else Fact.ABSENT
        if domain.moved_to is not None:
            return Fact.MOVED
        return {PowerState.RUNNING: Fact.RUNS, PowerState.PAUSED: Fact.HELD}.get(domain.power, Fact.OFF)

    def compare_cpu(self, cpu_info: Any) -> None:
        """Check a processor: fake guests run on fake ones only."""
        if "fake" not in str(cpu_info):
            raise errors.MigrationRefused("the processors differ")

    # --- after ---------------------------------------------------------------------------------------

    def post_live_migration(
        self,
        context: Context,
        instance: Instance,
        block_device_info: BlockDeviceInfo,
        migrate_data: LiveMigrateData | None = None,
    ) -> None:
        """Strike what is left of the guest, disconnect the volumes and remove the disks that were copied."""
        moving.leave(self.hypervisor, instance.uuid)
        storage.disconnect_all(self.hypervisor, instance.uuid)
        if instance.uuid in self.hypervisor.world.directories:
            self.hypervisor.effect("remove_files", instance.uuid, directories=None)

    def post_live_migration_at_source(
        self, context: Context, instance: Instance, network_info: NetworkInfo
    ) -> None:
        """Unplug the interfaces."""
        network.unplug(self, instance)

    def post_live_migration_at_destination(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_migration: bool = False,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Let the guest go on, if it came held; it was permanent when it came."""
        self.poll_outside()
        moving.go_on(self.hypervisor, instance.uuid)

    def rollback_live_migration_at_destination(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo,
        destroy_disks: bool = True,
        migrate_data: LiveMigrateData | None = None,
    ) -> None:
        """Remove what was made for a guest that did not come, or is not to go on."""
        self.poll_outside()
        moving.let_fall(self.hypervisor, instance.uuid)
        domain = self.hypervisor.find(instance.uuid)
        if domain is not None and domain.power is PowerState.RUNNING:
            raise errors.InvalidState("the guest runs here")
        with contextlib.suppress(errors.InstanceNotFound):
            self.hypervisor.undefine(instance.uuid)
        storage.disconnect_all(self.hypervisor, instance.uuid)
        network.unplug(self, instance)
        if destroy_disks and instance.uuid in self.hypervisor.world.directories:
            self.hypervisor.effect("remove_files", instance.uuid, directories=None)

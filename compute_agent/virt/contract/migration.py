# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Migration: an instance moves to another host, while it runs (live) or while it is off (cold).

Whatever crashes: at most one copy runs at any time.
"""

from collections.abc import Callable, Mapping
from typing import Any

from compute_agent.model.flavor import Flavor
from compute_agent.model.handshake import Fact
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, BlockDeviceInfo, Context, NetworkInfo, unsupported
from compute_agent.virt.info import LiveMigrateData, MigrationStatus


class Migration(Base):
    """The parts that an agent puts a migration together from, at its source and at its destination."""

    # --- live: before ------------------------------------------------------------------------------

    @unsupported
    def check_can_live_migrate_destination(
        self,
        context: Context,
        instance: Instance,
        src_compute_info: Mapping[str, Any],
        dst_compute_info: Mapping[str, Any],
        block_migration: bool | None = False,
        disk_over_commit: bool = False,
    ) -> LiveMigrateData:
        """At the destination: see whether a guest may come. Changes nothing that is not cleaned up by
        :meth:`cleanup_live_migration_destination_check`.

        :param src_compute_info: the source's :meth:`get_available_resource`
        :param dst_compute_info: this host's
        :param block_migration: copy the disks as well; None: find out
        :param disk_over_commit: count what disks use now, not what they may grow to
        :raises MigrationRefused: naming the reason

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def cleanup_live_migration_destination_check(
        self, context: Context, dest_check_data: LiveMigrateData
    ) -> None:
        """At the destination: undo what the check left.

        Contract: Queens (older: check_can_live_migrate_destination_cleanup).
        """

    @unsupported
    def check_can_live_migrate_source(
        self,
        context: Context,
        instance: Instance,
        dest_check_data: LiveMigrateData,
        block_device_info: BlockDeviceInfo = None,
    ) -> LiveMigrateData:
        """At the source: see whether a guest may go; return the data, completed.

        :raises MigrationRefused: naming the reason

        Contract: Icehouse, Mitaka, Queens; Ganeti's MigrationInfo.
        """

    @unsupported
    def check_instance_shared_storage_local(self, context: Context, instance: Instance) -> Any:
        """Leave a mark in the instance's directory and return what names it; None where there is none.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def check_instance_shared_storage_remote(self, context: Context, data: Any) -> bool:
        """Return whether the mark that another host left can be seen here.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def check_instance_shared_storage_cleanup(self, context: Context, data: Any) -> None:
        """Remove the mark. Safe to repeat.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def pre_live_migration(
        self,
        context: Context,
        instance: Instance,
        block_device_info: BlockDeviceInfo,
        network_info: NetworkInfo,
        disk_info: Any,
        migrate_data: LiveMigrateData | None,
    ) -> LiveMigrateData | None:
        """At the destination: get ready for a guest: directory, disks, volumes, interfaces.

        :param disk_info: the source's :meth:`get_instance_disk_info`
        :return: ``migrate_data``, completed

        Contract: Icehouse, Mitaka, Queens; Ganeti's AcceptInstance.
        """

    # --- live: the move ----------------------------------------------------------------------------

    @unsupported
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
        """At the source: move a running guest to ``dest``.

        :param post_method: called once on success with ``(context, instance, dest,
            block_migration, migrate_data)``
        :param recover_method: called once on failure, with the same
        :raises MigrationFailed: after ``recover_method``; the guest runs here

        Contract: Diablo, Icehouse, Mitaka, Queens; Ganeti's MigrateInstance.
        """

    @unsupported
    def live_migration_abort(self, instance: Instance) -> None:
        """At the source: stop a live migration; the guest stays here.

        :raises InvalidState: if there is none that could be stopped

        Contract: Mitaka, Queens.
        """

    @unsupported
    def live_migration_force_complete(self, instance: Instance) -> None:
        """At the source: hold the guest, or go to post-copy, so that its live migration ends.

        :raises InvalidState: if there is none

        Contract: Mitaka, Queens.
        """

    def get_migration_status(self, instance: Instance) -> MigrationStatus:
        """Return how far a live migration of the instance is. Never blocks; ``none`` without one.

        Our own, for Ganeti's GetMigrationStatus.
        """
        return MigrationStatus()

    @unsupported
    def see_migration(self, instance: Instance, at_source: bool) -> Fact:
        """Return what the hypervisor shows of a guest that is migrated, at one moment.

        The truth, or ``UNKNOWN``: the handshake decides by it (docs/migration.md). ``BUSY`` while a job works
        on the guest or it is being received, whoever began that; ``MOVED`` only at the source, where
        the guest is off because all of it was transferred; ``ABSENT`` only at the destination, where there
        is no domain.

        Cold, at the source: ``MOVED`` where the guest is set aside and it is noted that all of it was sent
        (:meth:`send_disks`); ``PART`` where it is set aside and that is not noted; ``OFF`` where it is off
        and not set aside; ``BUSY`` also while a program that an earlier run of the agent has started sends.

        Our own.
        """

    # --- live: after -------------------------------------------------------------------------------

    @unsupported
    def post_live_migration(
        self,
        context: Context,
        instance: Instance,
        block_device_info: BlockDeviceInfo,
        migrate_data: LiveMigrateData | None = None,
    ) -> None:
        """At the source, after success: disconnect volumes, drop secrets.

        Contract: Icehouse, Mitaka, Queens; Ganeti's FinalizeMigrationSource.
        """

    @unsupported
    def post_live_migration_at_source(
        self, context: Context, instance: Instance, network_info: NetworkInfo
    ) -> None:
        """At the source, after success: unplug the interfaces.

        Contract: Mitaka, Queens; Ganeti's FinalizeMigrationSource.
        """

    @unsupported
    def post_live_migration_at_destination(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_migration: bool = False,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """At the destination, after success: make the guest permanent and tell the network.

        Contract: Icehouse, Mitaka, Queens; Ganeti's FinalizeMigrationDst.
        """

    @unsupported
    def rollback_live_migration_at_destination(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo,
        destroy_disks: bool = True,
        migrate_data: LiveMigrateData | None = None,
    ) -> None:
        """At the destination, after failure: remove what :meth:`pre_live_migration` made. Safe to repeat.

        Contract: Icehouse, Mitaka, Queens; Ganeti's FinalizeMigrationDst.
        """

    # --- cold: before ------------------------------------------------------------------------------

    @unsupported
    def check_can_receive_disks(
        self, context: Context, instance: Instance, source_info: Mapping[str, Any]
    ) -> LiveMigrateData:
        """At the destination: see whether a guest that is off may come. Changes nothing but marks, which
        :meth:`cleanup_live_migration_destination_check` removes.

        :param instance: as it is to be here: with its new flavor, interfaces and block devices
        :param source_info: parts of the source's :meth:`get_available_resource`
        :return: with a mark by which the source finds out whether the storage is shared
        :raises MigrationRefused, InsufficientResources: naming the reason: no room for its memory or its
            disks, the name is taken, no such machine type or bridge

        Our own.
        """

    @unsupported
    def check_can_send_disks(
        self,
        context: Context,
        instance: Instance,
        data: LiveMigrateData,
        block_device_info: BlockDeviceInfo = None,
        flavor: Flavor | None = None,
    ) -> LiveMigrateData:
        """At the source: see whether the disks may go; return the data, completed.

        Adds ``is_shared_instance_path`` and, in ``details["disks"]``, one entry per disk that is to be sent,
        plain data: what :meth:`receive_disks` and :meth:`finish_migration` have to know of it.

        :param instance: as it is here
        :param flavor: the one that it is to have; None: its own
        :raises MigrationRefused: naming the reason, such as a disk that would have to shrink

        Our own.
        """

    # --- cold: the move ----------------------------------------------------------------------------

    @unsupported
    def receive_disks(self, context: Context, instance: Instance, data: LiveMigrateData) -> LiveMigrateData:
        """At the destination: get ready for the disks, and open a way for the source to write them.

        Repeated it opens that way anew, over what has come already (the old one is closed). On shared storage
        there is none. With ``data.reverting`` nothing comes: it is only seen to that what was set aside here
        is there, and touched in no way.

        :return: ``data``, completed; the source gets it, and nobody else, with how to get in
        :raises MigrationRefused, InsufficientResources, DiskFull: if it can't be

        Our own.
        """

    @unsupported
    def migrate_disk_and_power_off(
        self,
        context: Context,
        instance: Instance,
        dest: str,
        flavor: Flavor,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        timeout: float = 0,
        retry_interval: float = 0,
    ) -> str:
        """At the source: switch off and set aside what is here, with the guest's definition; disconnect its
        volumes, unplug its interfaces. No domain is left. Safe to repeat.

        Where an agent moves it, :meth:`send_disks` brings the disks over afterwards (in contracts of others
        this member does that as well).

        :param timeout: how long the guest gets to shut down, as in :meth:`power_off`
        :return: the disks, as :meth:`get_instance_disk_info` gives them
        :raises MigrationRefused: if a disk would have to shrink

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def send_disks(self, context: Context, instance: Instance, data: LiveMigrateData) -> None:
        """At the source: write what was set aside to where :meth:`receive_disks` has opened a way, and note
        durably that all of it was sent.

        It goes on where an earlier attempt was interrupted, reports its progress
        (``steps.current().report``), heeds ``data.bandwidth_mib`` and a cancellation, and has succeeded only
        when what arrived is durable there and the same by its checksum. On shared storage, and with
        ``data.reverting``, it only notes it.

        :raises DestinationUnreachable, MigrationFailed: ``retryable`` if another attempt may go on from there

        Our own.
        """

    # --- cold: after -------------------------------------------------------------------------------

    @unsupported
    def finish_migration(
        self,
        context: Context,
        migration: Any,
        instance: Instance,
        disk_info: str,
        network_info: NetworkInfo,
        image_meta: Image | None,
        resize_instance: bool,
        block_device_info: BlockDeviceInfo = None,
        power_on: bool = True,
    ) -> None:
        """At the destination: make the guest from the disks that came; nobody writes to them any more. Safe
        to repeat.

        :param migration: the agent's record of the migration: ``migration_id``, ``source``,
            ``destination``, ``data`` (of :meth:`receive_disks`, as plain data)
        :param disk_info: what :meth:`migrate_disk_and_power_off` returned; where an agent moves it,
            ``details["disks"]`` of the data as JSON
        :param resize_instance: make the disks as large as the flavor says

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def drop_received(self, context: Context, instance: Instance, data: LiveMigrateData) -> None:
        """At the destination: remove what came and what was made for it, and close the way. Safe to repeat,
        and where :meth:`receive_disks` was never called. With ``data.reverting`` what is set aside stays.

        Our own.
        """

    @unsupported
    def confirm_migration(
        self, context: Context, migration: Any, instance: Instance, network_info: NetworkInfo
    ) -> None:
        """At the source: remove what was set aside. Safe to repeat. On shared storage what the guest uses at
        the destination stays.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def finish_revert_migration(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        power_on: bool = True,
    ) -> None:
        """At the source: bring the instance back exactly as it was: what was set aside is put back, volumes
        and interfaces connected, and it is started with ``power_on``. Safe to repeat; where nothing is set
        aside it only sees to the rest.

        :param instance: as it was; its metadata, security groups and generation may be newer

        Contract: Icehouse, Mitaka, Queens.
        """

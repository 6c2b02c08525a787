# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Lifecycle: guests come, are made anew, and go."""

from collections.abc import Mapping, Sequence
from typing import Any

from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import (
    Base,
    BlockDeviceInfo,
    Context,
    InjectedFiles,
    NetworkInfo,
    unsupported,
)


class Lifecycle(Base):
    """Spawn, destroy, rebuild, and what is left of an instance."""

    @unsupported
    def spawn_steps(
        self,
        context: Context,
        instance: Instance,
        image_meta: Image | None,
        injected_files: InjectedFiles,
        admin_password: str | None,
        allocations: Mapping[str, Any] | None,
        network_info: NetworkInfo = None,
        block_device_info: BlockDeviceInfo = None,
    ) -> list[Step]:
        """Return the steps of :meth:`spawn`, which takes the same. Nothing is done yet.

        Our own.
        """

    @unsupported
    def spawn(
        self,
        context: Context,
        instance: Instance,
        image_meta: Image | None,
        injected_files: InjectedFiles,
        admin_password: str | None,
        allocations: Mapping[str, Any] | None,
        network_info: NetworkInfo = None,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Make a guest and start it; return when it runs (is paused, with ``start_paused``).

        If it fails, nothing of the instance remains and the host is as it was before.

        :param image_meta: the root disk's image; None when it boots from a kernel or a volume
        :param injected_files: paths in the guest and contents in Base64
        :param admin_password: the administrator's, into the config drive
        :param allocations: resources that a scheduler has claimed; not used
        :param network_info: the interfaces
        :param block_device_info: swap, ephemeral disks and volumes
        :raises InstanceExists: if the hypervisor has another guest of that uuid or name
        :raises InsufficientResources, DiskFull: if the host has no room for it
        :raises ComputeError: what a step raised: images, disks, networks, the hypervisor

        Contract: Diablo, Icehouse, Mitaka, Queens; Ganeti's StartInstance.
        """

    @unsupported
    def destroy_steps(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        destroy_disks: bool = True,
    ) -> list[Step]:
        """Return the steps of :meth:`destroy`, which takes the same. Nothing is done yet.

        Our own.
        """

    @unsupported
    def destroy(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        destroy_disks: bool = True,
    ) -> None:
        """Stop a guest, whatever it does, and remove it. Safe to repeat.

        An unknown instance is a warning in the log and success.

        :param destroy_disks: False keeps its disks

        Contract: Diablo, Icehouse, Mitaka, Queens; Ganeti's StopInstance.
        """

    @unsupported
    def cleanup(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
    ) -> None:
        """Remove what is left of a destroyed instance: interfaces, filters, volume connections, files.

        Safe to repeat, and safe when nothing is left.

        :param destroy_disks: False keeps its disks
        :param migrate_data: of the migration that makes it necessary, if one does
        :param destroy_vifs: False leaves the interfaces plugged

        Contract: Icehouse, Mitaka, Queens; Ganeti's CleanupInstance.
        """

    @unsupported
    def rebuild(
        self,
        context: Context,
        instance: Instance,
        image_meta: Image | None,
        injected_files: InjectedFiles,
        admin_password: str | None,
        allocations: Mapping[str, Any] | None,
        bdms: Sequence[Any],
        detach_block_devices: Any,
        attach_block_devices: Any,
        network_info: NetworkInfo = None,
        recreate: bool = False,
        block_device_info: BlockDeviceInfo = None,
        preserve_ephemeral: bool = False,
    ) -> None:
        """Make an instance anew from ``image_meta``, keeping its identity, interfaces and volumes.

        :param bdms: the instance's block devices
        :param detach_block_devices: called with ``(context, bdms)`` before the old guest goes; may be None
        :param attach_block_devices: called with ``(context, instance, bdms)`` before the new one comes and
            returns its ``block_device_info``; may be None
        :param recreate: the instance comes from a host that failed (evacuation); without ``image_meta`` and
            with ``preserve_ephemeral`` on the disks that are there
        :param preserve_ephemeral: keep the ephemeral disks' contents

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def soft_delete(self, instance: Instance) -> None:
        """Switch an instance off and keep it for a while. Undone by :meth:`restore`.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def restore(self, instance: Instance) -> None:
        """Switch a soft-deleted instance on again.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def instance_exists(self, instance: Instance) -> bool:
        """Return whether the hypervisor has a guest of the instance, running or not.

        :raises HypervisorUnavailable: if it can't be asked: unknown is not gone

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def instance_on_disk(self, instance: Instance) -> bool:
        """Return whether the instance's disks are on this host's storage.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def delete_instance_files(self, instance: Instance) -> bool:
        """Remove the instance's files; return whether they are gone. Safe to repeat.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def set_description(self, instance: Instance) -> None:
        """Put a changed description into the hypervisor, beside the guest (without secrets).

        :raises InstanceNotFound: if there is no such guest

        Our own.
        """

    def prepare_for_spawn(self, instance: Instance) -> None:
        """Get ready for a spawn that will follow. Nothing to do for most drivers.

        Contract: Queens.
        """

    def failed_spawn_cleanup(self, instance: Instance) -> None:
        """Clear away after a spawn that failed and is tried elsewhere. Ours leave nothing.

        Contract: Queens.
        """

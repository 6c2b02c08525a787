# SPDX-License-Identifier: Apache-2.0
"""The volumes of the libvirt driver's storage concern: the contract's members, each a list of steps."""

import contextlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import Context
from compute_agent.virt.libvirt.snapshots import LibvirtSnapshots
from compute_agent.virt.libvirt.volumes import brick, connection, found, initiator, usage
from compute_agent.virt.libvirt.volumes.attach import Attach
from compute_agent.virt.libvirt.volumes.connection import ConnectionInfo, Volume
from compute_agent.virt.libvirt.volumes.detach import Detach
from compute_agent.virt.libvirt.volumes.extend import Extend
from compute_agent.virt.libvirt.volumes.quiesce import Quiescer
from compute_agent.virt.libvirt.volumes.snapshots import Create, Delete
from compute_agent.virt.libvirt.volumes.swap import Swap

GIB = 2**30


class LibvirtVolumes(LibvirtSnapshots):
    """Volumes."""

    @property
    def need_legacy_block_device_info(self) -> bool:
        """Whether the form from before Icehouse is wanted: no."""
        return False

    def attach_volume(
        self,
        context: Context,
        connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        disk_bus: str | None = None,
        device_type: str | None = None,
        encryption: Mapping[str, Any] | None = None,
    ) -> str:
        """Give a guest a volume, running or not; return its name there."""
        steps.run(
            self.attach_volume_steps(
                context, connection_info, instance, mountpoint, disk_bus, device_type, encryption
            )
        )
        volume_id = connection.volume_id_of(connection_info)
        there = found.attached(self._host.ask_guest(instance.uuid, found.look, volume_id), volume_id)
        return f"/dev/{there.target}"

    def attach_volume_steps(
        self,
        context: Context,
        connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        disk_bus: str | None = None,
        device_type: str | None = None,
        encryption: Mapping[str, Any] | None = None,
    ) -> list[Step]:
        """Return the parts of :meth:`attach_volume`."""
        volume = connection.read(
            connection_info,
            self._paths(instance),
            mountpoint=mountpoint,
            disk_bus=disk_bus,
            device_type=device_type,
            encryption=encryption,
        )
        return Attach(self, instance, volume).steps()

    def detach_volume(
        self,
        context: Context,
        connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        encryption: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a volume from a guest, once the guest has released it."""
        steps.run(self.detach_volume_steps(context, connection_info, instance, mountpoint, encryption))

    def detach_volume_steps(
        self,
        context: Context,
        connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        encryption: Mapping[str, Any] | None = None,
    ) -> list[Step]:
        """Return the parts of :meth:`detach_volume`.

        A volume can be taken away whatever is wrong with how it was connected.
        """
        volume_id = connection.volume_id_of(connection_info)
        volume: Volume | None = None
        with contextlib.suppress(errors.InvalidArguments, errors.PermissionDenied):
            volume = connection.read(connection_info, self._paths(instance), encryption=encryption)
        return Detach(self, instance, volume_id, volume).steps()

    def swap_volume(
        self,
        context: Context,
        old_connection_info: ConnectionInfo,
        new_connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        resize_to: int,
    ) -> None:
        """Copy a volume to another while the guest runs, and let the guest use the other."""
        steps.run(
            self.swap_volume_steps(
                context, old_connection_info, new_connection_info, instance, mountpoint, resize_to
            )
        )

    def swap_volume_steps(
        self,
        context: Context,
        old_connection_info: ConnectionInfo,
        new_connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        resize_to: int,
    ) -> list[Step]:
        """Return the parts of :meth:`swap_volume`."""
        paths = self._paths(instance)
        old, new = connection.read(old_connection_info, paths), connection.read(new_connection_info, paths)
        return Swap(self, instance, old, new, resize_to * GIB).steps()

    def extend_volume(self, connection_info: ConnectionInfo, instance: Instance) -> None:
        """Tell a guest that a volume has grown, to ``size_gb`` in its ``data``."""
        steps.run(self.extend_volume_steps(connection_info, instance))

    def extend_volume_steps(self, connection_info: ConnectionInfo, instance: Instance) -> list[Step]:
        """Return the parts of :meth:`extend_volume`."""
        volume = connection.read(connection_info, self._paths(instance))
        return Extend(self, instance, volume).steps()

    def volume_snapshot_create(
        self, context: Context, instance: Instance, volume_id: str, create_info: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Put a new layer on a volume's file; return what changes in the volume's ``data``."""
        volume = self._volume(instance, volume_id)
        work = Create(self, instance, volume, create_info, Quiescer(self._freezer))
        steps.run(work.steps())
        return work.now()

    def volume_snapshot_delete(
        self,
        context: Context,
        instance: Instance,
        volume_id: str,
        snapshot_id: str,
        delete_info: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Merge layers of a volume's file; return what changes in the volume's ``data``."""
        work = Delete(self, instance, self._volume(instance, volume_id), delete_info)
        steps.run(work.steps())
        return work.now()

    def get_volume_connector(self, instance: Instance | None) -> dict[str, Any]:
        """Return what a storage service has to know of this host."""
        ours = {
            "host": CONF.host_name,
            "ip": CONF.my_ip,
            "initiator": initiator.name(),
            "multipath": bool(CONF.volumes.iscsi_use_multipath),
            "os_type": "linux",
            "platform": platform.machine(),
            "do_local_attach": False,
        }
        theirs = self._file_threads.call(brick.properties, CONF.host_name)
        return {**ours, **(theirs or {})} | {"initiator": ours["initiator"]}

    def get_all_volume_usage(
        self, context: Context, compute_host_bdms: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return what each volume of a running guest did."""
        return usage.of_all(self, compute_host_bdms)

    def _volume(self, instance: Instance, volume_id: str) -> Volume:
        """Return a volume of the record.

        :raises VolumeUnavailable: if it is not attached
        """
        devices: list[BlockDevice] = [d for d in instance.block_device_mapping if d.volume_id == volume_id]
        if not devices:
            raise errors.VolumeUnavailable(f"volume {volume_id} is not attached", retryable=False)
        return connection.of_device(devices[0], self._paths(instance))

# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Storage: volumes, disks, device names, cached images."""

from collections.abc import Mapping, Sequence
from typing import Any

from compute_agent.model.block_device import BlockDevice
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, BlockDeviceInfo, Context, unsupported

ConnectionInfo = Mapping[str, Any]
"""A volume's, in Cinder's form: ``driver_volume_type``, ``data``, ``serial``."""
FS_FORMATS = frozenset({"ext2", "ext3", "ext4", "xfs"})


class Storage(Base):
    """Volumes come and go on running and stopped guests alike; attach and detach are an exact pair."""

    @unsupported
    def attach_volume(
        self,
        context: Context,
        connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        disk_bus: str | None = None,
        device_type: str | None = None,
        encryption: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Connect a volume and give it to the guest. The same volume at the same place is success.

        :param mountpoint: the device name that is wished for, such as ``/dev/vdb``; None: any
        :param disk_bus: ``virtio``, ``scsi``, …; None: the image's
        :param device_type: ``disk`` or ``cdrom``; None: disk
        :param encryption: how the volume is encrypted
        :return: the name that the device has got, such as ``/dev/vdb``; None: the driver can't tell
        :raises InstanceNotFound: if there is no such guest
        :raises DeviceBusy: if the volume or the name is taken
        :raises VolumeUnavailable: if the volume can't be reached

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def detach_volume(
        self,
        context: Context,
        connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        encryption: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a volume from the guest once the guest has released it, and disconnect it.

        One that is not attached is success.

        :raises InstanceNotFound: if there is no such guest
        :raises DeviceBusy: if the guest does not release it

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def swap_volume(
        self,
        context: Context,
        old_connection_info: ConnectionInfo,
        new_connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        resize_to: int,
    ) -> None:
        """Copy a volume to another while the guest runs, and let the guest use the other.

        :param resize_to: the new size in GiB; 0 leaves it

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def extend_volume(self, connection_info: ConnectionInfo, instance: Instance) -> None:
        """Tell the guest that a volume has grown.

        :raises VolumeUnavailable: if the volume is not attached to the guest

        Contract: Queens.
        """

    @unsupported
    def get_volume_connector(self, instance: Instance | None) -> dict[str, Any]:
        """Return what a storage service has to know of this host: ``ip``, ``host``, ``initiator``, …

        :param instance: None for the host in general

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_instance_disk_info(self, instance: Instance, block_device_info: BlockDeviceInfo = None) -> str:
        """Return the instance's local disks (no volumes) as a JSON list.

        Each has ``path``, ``type``, ``virt_disk_size``, ``backing_file``, ``disk_size`` and
        ``over_committed_disk_size``; sizes in bytes.

        :raises InstanceNotFound: if there is no such guest

        Contract: Mitaka, Queens.
        """

    @unsupported
    def default_root_device_name(
        self, instance: Instance, image_meta: Image | None, root_bdm: Any
    ) -> str | None:
        """Return the root device's name for an instance that names none, such as ``/dev/vda``.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def default_device_names_for_instance(
        self, instance: Instance, root_device_name: str | None, *block_device_lists: list[dict[str, Any]]
    ) -> None:
        """Fill in the device names that are missing in the lists of a ``block_device_info``.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_device_name_for_instance(
        self, instance: Instance, bdms: Sequence[BlockDevice], block_device_obj: BlockDevice
    ) -> str:
        """Return the next free device name for one more block device.

        Contract: Mitaka, Queens.
        """

    def is_supported_fs_format(self, fs_type: str) -> bool:
        """Return whether ephemeral disks may be formatted with ``fs_type``.

        Contract: Mitaka, Queens.
        """
        return fs_type in FS_FORMATS

    @property
    def need_legacy_block_device_info(self) -> bool:
        """Whether the driver wants ``block_device_info`` in the form from before Icehouse.

        Contract: Icehouse, Mitaka, Queens.
        """
        return True

    @unsupported
    def manage_image_cache(self, context: Context, all_instances: Sequence[Any]) -> dict[str, Any] | None:
        """Drop cached images that nothing uses and that are old enough.

        :param all_instances: what is still to be kept: instances, or images
        :return: what was done, for the operation's result; None if there is nothing to tell

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def cache_images(self, context: Context, images: Sequence[Image]) -> dict[str, Any] | None:
        """Fetch images into the cache before they are needed.

        :return: what was done, for the operation's result
        :raises ImageUnavailable, ImageChecksumMismatch, ImageUnsafe: as spawn would

        Our own.
        """

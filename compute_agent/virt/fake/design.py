# SPDX-License-Identifier: Apache-2.0
"""What a guest is to be made of: its disks, devices and interfaces. Pure: no host is asked."""

import dataclasses
import itertools
import string
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.secrets import public
from compute_agent.model.vif import Vif
from compute_agent.virt import block_device, configdrive
from compute_agent.virt.configdrive import Given
from compute_agent.virt.fake.world import Device, Disk, Nic

GIB = 2**30
MIB = 2**20
CONFIG_DRIVE_BYTES = MIB
PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd", "fdc": "fd"}
BUSES = {"vd": "virtio", "sd": "scsi", "hd": "ide", "fd": "fdc"}
AGENT_PROPERTY = "hw_qemu_guest_agent"


@dataclasses.dataclass(frozen=True)
class Design:
    """A guest's parts. ``volumes`` are the connections that it needs: driver by volume id."""

    disks: dict[str, Disk]
    devices: dict[str, Device]
    volumes: dict[str, str]

    @property
    def size(self) -> int:
        """How much disk it may come to need, in bytes."""
        return sum(disk.size for disk in self.disks.values())


def design(
    instance: Instance,
    image: Image | None,
    info: Mapping[str, Any] | None,
    *,
    config_drive: bool | None = None,
) -> Design:
    """Return the parts of an instance's guest.

    :param info: its ``block_device_info``; None: what the instance itself says
    :param config_drive: whether it gets one; None: what the instance itself says
    :raises ImageTooLarge: if the image does not fit into the flavor's root disk
    :raises VolumeUnavailable: if a volume's connection says nothing
    :raises InvalidArguments: if two devices have one name
    """
    if info is None:
        info = block_device.get_block_device_info(instance, instance.block_device_mapping)
    made = _Made()
    if image is not None:
        root = block_device.block_device_info_get_root_device(info) or block_device.DEFAULT_ROOT
        made.file(root, Disk("disk", root_size(instance, image), backing=image_key(image)), boot_index=0)
    for ephemeral in block_device.block_device_info_get_ephemerals(info):
        disk = Disk(f"disk.eph{ephemeral['num']}", ephemeral["size"] * GIB)
        made.file(ephemeral["device_name"], disk, bus=ephemeral.get("disk_bus"))
    swap = block_device.block_device_info_get_swap(info)
    if block_device.swap_is_usable(swap):
        made.file(swap["device_name"], Disk("disk.swap", swap["swap_size"] * MIB, "raw"))
    for mapped in block_device.block_device_info_get_mapping(info):
        made.mapped(mapped)
    if configdrive.is_wanted(Given(instance=instance)) if config_drive is None else config_drive:
        made.file(None, Disk("disk.config", CONFIG_DRIVE_BYTES, "raw"), bus="sata", device_type="cdrom")
    return Design(made.disks, made.devices, made.volumes)


class _Made:
    def __init__(self) -> None:
        self.disks: dict[str, Disk] = {}
        self.devices: dict[str, Device] = {}
        self.volumes: dict[str, str] = {}

    def file(
        self,
        name: str | None,
        disk: Disk,
        bus: str | None = None,
        device_type: str | None = None,
        boot_index: int | None = None,
    ) -> None:
        target = free_target(self.devices, name, bus)
        self.disks[disk.name] = disk
        self.devices[target] = Device(
            target=target,
            source=disk.name,
            bus=bus or bus_of(target),
            device_type=device_type or "disk",
            size=disk.size,
            boot_index=boot_index,
        )

    def mapped(self, mapped: Mapping[str, Any]) -> None:
        if mapped["source_type"] == "image":
            name = f"disk.image{len(self.disks)}"
            self.file(mapped["mount_device"], Disk(name, mapped["size"] * GIB), bus=mapped["disk_bus"])
            return
        connection = mapped["connection_info"]
        volume = volume_id(connection, mapped["volume_id"])
        device = volume_device(
            self.devices,
            connection,
            volume,
            mapped["mount_device"],
            mapped["disk_bus"],
            mapped["device_type"],
        )
        self.devices[device.target] = device
        self.volumes[volume] = str(connection["driver_volume_type"])


def volume_device(
    devices: Collection[str],
    connection: Mapping[str, Any],
    volume: str,
    mountpoint: str | None,
    bus: str | None,
    device_type: str | None,
) -> Device:
    """Return a volume as a guest sees it."""
    target = free_target(devices, mountpoint, bus)
    data = connection.get("data") or {}
    return Device(
        target=target,
        source=volume,
        kind="volume",
        bus=bus or bus_of(target),
        device_type=device_type or "disk",
        size=int(data.get("size_gb", 1)) * GIB,
        read_only=data.get("access_mode") == "ro",
    )


def volume_id(connection: Mapping[str, Any] | None, known: str | None = None) -> str:
    """Return the id of the volume behind a connection, in Cinder's form.

    :raises VolumeUnavailable: if the connection does not tell where the volume is
    """
    connection = connection or {}
    data = connection.get("data") or {}
    found = known or connection.get("serial") or data.get("volume_id")
    if not connection.get("driver_volume_type") or not found:
        raise errors.VolumeUnavailable("connection_info names no volume", retryable=False)
    return str(found)


def free_target(taken: Collection[str], wish: str | None, bus: str | None = None) -> str:
    """Return the name of a device: the one wished for, else the next free one of its bus.

    :raises DeviceBusy: if the one wished for is taken
    """
    if wish is not None:
        target = wish.removeprefix("/dev/")
        if target in taken:
            raise errors.DeviceBusy(f"there is a device {target} already", retryable=False)
        return target
    prefix = PREFIXES.get(bus or "virtio", "vd")
    return next(name for name in _names(prefix) if name not in taken)


def _names(prefix: str) -> Iterator[str]:
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield prefix + "".join(letters)


def bus_of(target: str) -> str:
    """Return the bus that a device's name tells."""
    return BUSES.get(target[:2], "virtio")


def root_size(instance: Instance, image: Image) -> int:
    """Return the size of the root disk in bytes.

    :raises ImageTooLarge: if the image does not fit into the flavor's
    """
    root_gb = instance.flavor.root_gb
    if not root_gb:
        return image.size_bytes
    if image.size_bytes > root_gb * GIB or image.min_disk_gb > root_gb:
        raise errors.ImageTooLarge(
            f"the image does not fit into {root_gb} GiB", hint="take a flavor with a larger root_gb"
        )
    return root_gb * GIB


def image_key(image: Image) -> str:
    """Return what names an image in the cache."""
    return image.checksum or image.id or public(image.url)


def has_agent(instance: Instance, image: Image | None) -> bool:
    """Return whether a guest has an agent inside, as its image says."""
    found = image or instance.image
    return found is not None and found.properties.get(AGENT_PROPERTY, "no").lower() in ("yes", "true", "1")


def nic(vif: Vif) -> Nic:
    """Return an interface as its guest sees it."""
    return Nic(id=vif.id, mac=vif.address.lower(), tap=tap(vif), model=vif.model.value, bridge=vif.bridge)


def tap(vif: Vif) -> str:
    """Return the name of an interface's tap device."""
    return f"tap{vif.id}"[:14]

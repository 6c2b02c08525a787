# SPDX-License-Identifier: Apache-2.0
"""What the driver tells of a guest's disks: their sizes, and the names that devices have or will get."""

import json
import os
from collections.abc import Sequence
from typing import Any

import libvirt

from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.block_device import DEFAULT_ROOT
from compute_agent.virt.contract.base import BlockDeviceInfo
from compute_agent.virt.images import disks as images
from compute_agent.virt.images.disks import DiskInfo
from compute_agent.virt.libvirt import config, design_devices
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.paths import InstancePaths


class LibvirtDisks(LibvirtBase):
    """The disks that are on this host, and names of devices."""

    def get_instance_disk_info(self, instance: Instance, block_device_info: BlockDeviceInfo = None) -> str:
        """Return the guest's disks on this host as a JSON list, also while it runs."""
        found = self._host.ask_guest(instance.uuid, _on_this_host, self._paths(instance))
        return json.dumps([_told(images.info(path, disk_format)) for path, disk_format in found])

    def default_root_device_name(
        self, instance: Instance, image_meta: Image | None, root_bdm: Any
    ) -> str | None:
        """Return the root device's name: the first of its bus."""
        asked = image_meta.properties.get("hw_disk_bus") if image_meta else None
        return design_devices.free_name(getattr(root_bdm, "disk_bus", None) or asked, ())

    def default_device_names_for_instance(
        self, instance: Instance, root_device_name: str | None, *block_device_lists: list[dict[str, Any]]
    ) -> None:
        """Fill in the device names that are missing, each the next free one of its bus."""
        devices = [device for devices in block_device_lists for device in devices]
        taken = {root_device_name or instance.root_device_name or DEFAULT_ROOT}
        taken |= {name for device in devices if (name := device.get(_key(device)))}
        for device in devices:
            if not device.get(_key(device)):
                name = design_devices.free_name(device.get("disk_bus") or _bus(instance), taken)
                device[_key(device)] = name
                taken.add(name)

    def get_device_name_for_instance(
        self, instance: Instance, bdms: Sequence[BlockDevice], block_device_obj: BlockDevice
    ) -> str:
        """Return the next free device name, by the record, and by the domain if there is one."""
        named = [instance.root_device_name or DEFAULT_ROOT, *(bdm.mountpoint for bdm in bdms)]
        taken = {name for name in named if name} | self._names_in_use(instance.uuid)
        return design_devices.free_name(block_device_obj.disk_bus or _bus(instance), taken)

    def _names_in_use(self, uuid: str) -> set[str]:
        try:
            return self._host.ask_guest(uuid, _names)
        except errors.InstanceNotFound:
            return set()


def _on_this_host(domain: libvirt.virDomain, paths: InstancePaths) -> list[tuple[str, str]]:
    """Return path and format of each disk that was made here. In a native thread."""
    return [
        (disk.source_file, disk.format or "raw")
        for disk in _disks(domain)
        if disk.source_file is not None
        and disk.device is config.DiskDevice.DISK
        and os.path.dirname(disk.source_file) == paths.directory
        and disk.source_file != paths.config_drive
    ]


def _names(domain: libvirt.virDomain) -> set[str]:
    return {f"/dev/{disk.target}" for disk in _disks(domain) if disk.target}


def _disks(domain: libvirt.virDomain) -> list[config.Disk]:
    devices = config.Domain.from_xml(domain.XMLDesc(0)).devices
    return [] if devices is None else devices.disks


def _told(info: DiskInfo) -> dict[str, Any]:
    return {
        "path": info.path,
        "type": info.format,
        "virt_disk_size": info.virtual_size,
        "backing_file": os.path.basename(info.backing_file or ""),
        "disk_size": info.disk_size,
        "over_committed_disk_size": max(0, info.virtual_size - info.disk_size),
    }


def _bus(instance: Instance) -> str | None:
    return None if instance.image is None else instance.image.properties.get("hw_disk_bus")


def _key(device: dict[str, Any]) -> str:
    return "mount_device" if "mount_device" in device else "device_name"

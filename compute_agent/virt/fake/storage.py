# SPDX-License-Identifier: Apache-2.0
"""Storage: volumes, disks, device names and the image cache of the fake host."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.secrets import public
from compute_agent.virt.block_device import DEFAULT_ROOT
from compute_agent.virt.contract.base import BlockDeviceInfo, Context
from compute_agent.virt.contract.storage import ConnectionInfo
from compute_agent.virt.fake import design
from compute_agent.virt.fake.base import FakeBase, Part
from compute_agent.virt.fake.hypervisor import Hypervisor, free_bytes
from compute_agent.virt.fake.world import Device, Domain

DEFAULT_IMAGE_BYTES = 2**20
"""How large an image is that does not tell."""


class FakeStorage(FakeBase):
    """The storage concern."""

    @property
    def need_legacy_block_device_info(self) -> bool:
        """Whether the form from before Icehouse is wanted: no."""
        return False

    # --- volumes -----------------------------------------------------------------------------------------

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
        """Give a guest a volume; return its name there."""
        domain, uuid = self.hypervisor.get(instance.uuid), instance.uuid
        volume = design.volume_id(connection_info)
        there = find_volume(domain, volume)
        if there is not None and mountpoint is not None and there.target != mountpoint.removeprefix("/dev/"):
            raise errors.DeviceBusy(f"volume {volume} is attached as {there.target}", retryable=False)
        kind = str(connection_info["driver_volume_type"])
        known = any(device.volume_id == volume for device in instance.block_device_mapping)
        ours = not known and (there is None or steps.current().resumed)

        device = there or design.volume_device(
            domain.devices, connection_info, volume, mountpoint, disk_bus, device_type
        )
        self._run(
            "attach_volume",
            instance,
            Part(
                "connect",
                lambda: connect(self.hypervisor, uuid, volume, kind),
                undo=(lambda: disconnect(self.hypervisor, uuid, volume)) if ours else None,
            ),
            Part(
                "device",
                lambda: self._set_devices("attach_volume", uuid, {**domain.devices, device.target: device}),
                done=lambda: find_volume(self.hypervisor.get(uuid), volume) is not None,
                undo=(lambda: self._take_device("detach_volume", uuid, volume)) if ours else None,
            ),
        )
        return f"/dev/{device.target}"

    def detach_volume(
        self,
        context: Context,
        connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        encryption: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a volume from a guest."""
        self.hypervisor.get(instance.uuid)
        uuid, volume = instance.uuid, design.volume_id(connection_info)
        self._run(
            "detach_volume",
            instance,
            Part("device", lambda: self._release_volume(uuid, volume)),
            Part("disconnect", lambda: disconnect(self.hypervisor, uuid, volume)),
        )

    def _release_volume(self, uuid: str, volume: str) -> None:
        domain = self.hypervisor.get(uuid)
        there = find_volume(domain, volume)
        if there is not None and domain.is_up and volume in self.hypervisor.held:
            raise errors.DeviceBusy(f"the guest does not release {there.target}")
        self._take_device("detach_volume", uuid, volume)

    def _take_device(self, effect: str, uuid: str, volume: str) -> None:
        domain = self.hypervisor.get(uuid)
        there = find_volume(domain, volume)
        if there is not None:
            left = {target: d for target, d in domain.devices.items() if target != there.target}
            self._set_devices(effect, uuid, left)

    def swap_volume(
        self,
        context: Context,
        old_connection_info: ConnectionInfo,
        new_connection_info: ConnectionInfo,
        instance: Instance,
        mountpoint: str | None,
        resize_to: int,
    ) -> None:
        """Let a guest use another volume in the place of one."""
        domain, uuid = self.hypervisor.get(instance.uuid), instance.uuid
        old, new = design.volume_id(old_connection_info), design.volume_id(new_connection_info)
        if find_volume(domain, new) is None:
            attached(domain, old)
        old_kind, new_kind = (
            str(info["driver_volume_type"]) for info in (old_connection_info, new_connection_info)
        )
        self._run(
            "swap_volume",
            instance,
            Part(
                "connect",
                lambda: connect(self.hypervisor, uuid, new, new_kind),
                undo=lambda: disconnect(self.hypervisor, uuid, new),
            ),
            Part(
                "device",
                lambda: self._swap(uuid, old, new, resize_to * design.GIB),
                undo=lambda: self._swap(uuid, new, old, 0),
            ),
            Part(
                "disconnect",
                lambda: disconnect(self.hypervisor, uuid, old),
                undo=lambda: connect(self.hypervisor, uuid, old, old_kind),
            ),
        )

    def _swap(self, uuid: str, old: str, new: str, size: int) -> None:
        """Put one volume in the place of another, unless it is there already."""
        domain = self.hypervisor.get(uuid)
        there = find_volume(domain, old)
        if there is not None:
            swapped = msgspec.structs.replace(there, source=new, size=size or there.size, chain=[])
            self._set_devices("swap_volume", uuid, {**domain.devices, there.target: swapped})

    def extend_volume(self, connection_info: ConnectionInfo, instance: Instance) -> None:
        """Tell a guest that a volume has grown."""
        domain = self.hypervisor.get(instance.uuid)
        there = attached(domain, design.volume_id(connection_info))
        size = int((connection_info.get("data") or {}).get("size_gb", 0)) * design.GIB
        if size > there.size:
            grown = msgspec.structs.replace(there, size=size)
            self._set_devices("extend_volume", instance.uuid, {**domain.devices, there.target: grown})

    def _set_devices(self, effect: str, uuid: str, devices: dict[str, Device]) -> None:
        self.hypervisor.effect(effect, uuid, domain={"devices": devices})

    def get_volume_connector(self, instance: Instance | None) -> dict[str, Any]:
        """Return what a storage service has to know of this host."""
        return {
            "host": self.host,
            "ip": CONF.my_ip,
            "initiator": f"iqn.2025-01.org.compute-agent:{self.host}",
            "multipath": False,
            "os_type": "linux",
            "platform": "fake",
        }

    # --- disks -------------------------------------------------------------------------------------------

    def get_instance_disk_info(self, instance: Instance, block_device_info: BlockDeviceInfo = None) -> str:
        """Return the instance's local disks as a JSON list."""
        self.hypervisor.get(instance.uuid)
        directory = self.hypervisor.world.directories.get(instance.uuid)
        disks = directory.disks.values() if directory else ()
        return json.dumps(
            [
                {
                    "path": f"/fake/{instance.uuid}/{disk.name}",
                    "type": disk.format,
                    "virt_disk_size": disk.size,
                    "backing_file": disk.backing or "",
                    "disk_size": disk.used,
                    "over_committed_disk_size": disk.size - disk.used,
                }
                for disk in disks
            ]
        )

    def default_root_device_name(
        self, instance: Instance, image_meta: Image | None, root_bdm: Any
    ) -> str | None:
        """Return the root device's name."""
        bus = image_meta.properties.get("hw_disk_bus", "virtio") if image_meta else "virtio"
        return f"/dev/{design.PREFIXES.get(bus, 'vd')}a"

    def default_device_names_for_instance(
        self, instance: Instance, root_device_name: str | None, *block_device_lists: list[dict[str, Any]]
    ) -> None:
        """Fill in the device names that are missing."""
        devices = [device for devices in block_device_lists for device in devices]
        taken = {(root_device_name or DEFAULT_ROOT).removeprefix("/dev/")}
        taken |= {name.removeprefix("/dev/") for device in devices if (name := device.get(_key(device)))}
        for device in devices:
            if not device.get(_key(device)):
                target = design.free_target(taken, None, device.get("disk_bus"))
                taken.add(target)
                device[_key(device)] = f"/dev/{target}"

    def get_device_name_for_instance(
        self, instance: Instance, bdms: Sequence[BlockDevice], block_device_obj: BlockDevice
    ) -> str:
        """Return the next free device name."""
        names = [instance.root_device_name or DEFAULT_ROOT, *(bdm.mountpoint for bdm in bdms)]
        taken = {name.removeprefix("/dev/") for name in names if name}
        domain = self.hypervisor.find(instance.uuid)
        taken |= set(domain.devices) if domain else set()
        return f"/dev/{design.free_target(taken, None, block_device_obj.disk_bus)}"

    # --- the image cache ---------------------------------------------------------------------------------

    def cache_images(self, context: Context, images: Sequence[Image]) -> dict[str, Any]:
        """Fetch images into the cache."""
        fresh = [image for image in images if not is_cached(self.hypervisor, image)]
        for image in fresh:
            cache(self.hypervisor, image)
        return {"fetched": [design.image_key(image) for image in fresh], "cached": len(images) - len(fresh)}

    def manage_image_cache(self, context: Context, all_instances: Sequence[Any]) -> dict[str, Any]:
        """Drop cached images that no disk stands on and that nobody names."""
        world = self.hypervisor.world
        named = (item.image if isinstance(item, Instance) else item for item in all_instances)
        used = {design.image_key(image) for image in named if isinstance(image, Image)}
        for directory in world.directories.values():
            kept = (*directory.disks.values(), *directory.aside_disks.values())
            used |= {disk.backing for disk in kept if disk.backing}
        kept_images = {key: size for key, size in world.host.images.items() if key in used}
        removed = sorted(world.host.images.keys() - kept_images.keys())
        if removed:
            host = msgspec.structs.replace(world.host, images=kept_images)
            self.hypervisor.effect("drop_images", None, host=host)
        return {"removed": removed, "kept": len(kept_images)}


def _key(device: Mapping[str, Any]) -> str:
    return "mount_device" if "mount_device" in device else "device_name"


def find_volume(domain: Domain, volume: str) -> Device | None:
    """Return a volume as a guest sees it; None if it is not attached."""
    found = (d for d in domain.devices.values() if d.kind == "volume" and d.source == volume)
    return next(found, None)


def attached(domain: Domain, volume: str) -> Device:
    """Return a volume as a guest sees it.

    :raises VolumeUnavailable: if it is not attached
    """
    device = find_volume(domain, volume)
    if device is None:
        raise errors.VolumeUnavailable(f"volume {volume} is not attached", retryable=False)
    return device


def connect(hypervisor: Hypervisor, uuid: str, volume: str, kind: str) -> None:
    """Connect a volume to the host, for an instance.

    :raises VolumeUnavailable: if it can't be reached
    :raises DeviceBusy: if another instance has it
    """
    connected = hypervisor.world.volumes
    if volume in connected.get(uuid, {}):
        return
    if volume in hypervisor.unreachable:
        raise errors.VolumeUnavailable(f"volume {volume} can't be reached")
    if any(volume in volumes for volumes in connected.values()):
        raise errors.DeviceBusy(f"volume {volume} is another instance's")
    hypervisor.effect("connect", uuid, volumes={**connected.get(uuid, {}), volume: kind})


def disconnect(hypervisor: Hypervisor, uuid: str, volume: str) -> None:
    """Disconnect a volume from the host. One that is not connected is success."""
    before = hypervisor.world.volumes.get(uuid, {})
    if volume in before:
        left = {key: kind for key, kind in before.items() if key != volume}
        hypervisor.effect("disconnect", uuid, volumes=left or None)


def disconnect_all(hypervisor: Hypervisor, uuid: str) -> None:
    """Disconnect all of an instance's volumes from the host."""
    if uuid in hypervisor.world.volumes:
        hypervisor.effect("disconnect", uuid, volumes=None)


def check_room(hypervisor: Hypervisor, size: int) -> None:
    """Check that the host's disk has room for ``size`` bytes.

    :raises DiskFull: if it has not
    """
    left = free_bytes(hypervisor)
    if size > left:
        raise errors.DiskFull(f"disks of {size} bytes are needed, {left} are left")


def is_cached(hypervisor: Hypervisor, image: Image) -> bool:
    """Return whether an image is in the cache."""
    return design.image_key(image) in hypervisor.world.host.images


def cache(hypervisor: Hypervisor, image: Image) -> None:
    """Fetch an image into the cache.

    :raises ImageUnavailable: if it can't be reached
    """
    if image.url in hypervisor.unreachable:
        raise errors.ImageUnavailable(f"{public(image.url)} can't be reached")
    host = hypervisor.world.host
    images = {**host.images, design.image_key(image): image.size_bytes or DEFAULT_IMAGE_BYTES}
    hypervisor.effect("fetch", None, host=msgspec.structs.replace(host, images=images))


def digest(secret: str) -> str:
    """Return what can be kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()

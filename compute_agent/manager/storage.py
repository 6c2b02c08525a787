# SPDX-License-Identifier: Apache-2.0
"""Verbs on volumes, and on the image cache."""

from typing import Any

import msgspec

from compute_agent.manager.manager import Manager, request_context
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType, Volume
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Lane
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, Outcome, verb

ATTACHABLE = frozenset({S.ACTIVE, S.PAUSED, S.STOPPED})
DISKS = "the domain's disks"


def _volume(record: InstanceRecord, volume_id: str) -> BlockDevice:
    for device in record.instance.block_device_mapping:
        if device.volume_id == volume_id:
            return device
    raise errors.InvalidArguments(f"volume {volume_id} is not attached")


def _with(record: InstanceRecord, devices: list[BlockDevice]) -> InstanceRecord:
    instance = msgspec.structs.replace(record.instance, block_device_mapping=devices)
    return msgspec.structs.replace(record, instance=instance)


def _without_volume(record: InstanceRecord, volume_id: str) -> list[BlockDevice]:
    return [device for device in record.instance.block_device_mapping if device.volume_id != volume_id]


def _device(volume: Volume) -> BlockDevice:
    values = {name: getattr(volume, name) for name in volume.__struct_fields__}
    return BlockDevice(source_type=SourceType.VOLUME, **values)


@verb("attach_volume", starts_from=ATTACHABLE, probe=DISKS)
def attach_volume(manager: Manager, job: Job) -> Outcome:
    """Give an instance a volume."""
    volume: Volume = job.arguments.volume
    manager.driver.attach_volume(
        request_context(),
        volume.connection_info,
        job.instance.instance,
        volume.mountpoint,
        volume.disk_bus,
        volume.device_type,
        volume.encryption,
    )

    def change(record: InstanceRecord) -> InstanceRecord:
        return _with(record, [*_without_volume(record, volume.volume_id), _device(volume)])

    return Outcome(change=change)


@verb("detach_volume", starts_from=ATTACHABLE, probe=DISKS)
def detach_volume(manager: Manager, job: Job) -> Outcome:
    """Take a volume from an instance, once the guest has released it."""
    volume_id = job.arguments.volume_id
    device = _volume(job.instance, volume_id)
    manager.driver.detach_volume(
        request_context(),
        device.connection_info or {},
        job.instance.instance,
        device.mountpoint,
        device.encryption,
    )
    return Outcome(change=lambda record: _with(record, _without_volume(record, volume_id)))


@verb("swap_volume", starts_from=ATTACHABLE, probe=DISKS)
def swap_volume(manager: Manager, job: Job) -> Outcome:
    """Move a running guest from one volume to another."""
    wanted = job.arguments
    old = _volume(job.instance, wanted.old_volume_id)
    manager.driver.swap_volume(
        request_context(),
        old.connection_info or {},
        wanted.volume.connection_info,
        job.instance.instance,
        old.mountpoint,
        wanted.resize_to,
    )

    def change(record: InstanceRecord) -> InstanceRecord:
        return _with(record, [*_without_volume(record, wanted.old_volume_id), _device(wanted.volume)])

    return Outcome(change=change)


@verb("extend_volume", starts_from=ATTACHABLE, probe="the size that the guest sees")
def extend_volume(manager: Manager, job: Job) -> Outcome:
    """Tell a guest that a volume has grown."""
    _volume(job.instance, job.arguments.volume_id)
    manager.driver.extend_volume(job.arguments.connection_info, job.instance.instance)
    return Outcome()


@verb("volume_snapshot_create", starts_from=ATTACHABLE, probe="the disk's chain")
def volume_snapshot_create(manager: Manager, job: Job) -> Outcome:
    """Take a snapshot of a volume, as its storage service asks."""
    wanted = job.arguments
    manager.driver.volume_snapshot_create(
        request_context(), job.instance.instance, wanted.volume_id, wanted.create_info
    )
    return Outcome()


@verb("volume_snapshot_delete", starts_from=ATTACHABLE, probe="the disk's chain")
def volume_snapshot_delete(manager: Manager, job: Job) -> Outcome:
    """Merge a snapshot of a volume back."""
    wanted = job.arguments
    manager.driver.volume_snapshot_delete(
        request_context(), job.instance.instance, wanted.volume_id, wanted.snapshot_id, wanted.delete_info
    )
    return Outcome()


@verb("cache_images", lane=Lane.HOST, probe="the cache")
def cache_images(manager: Manager, job: Job) -> Outcome:
    """Fetch images before they are needed."""
    result: Any = manager.driver.cache_images(request_context(), job.arguments.images)
    return Outcome(dict(result or {}))


@verb("manage_image_cache", lane=Lane.HOST, probe="the cache")
def manage_image_cache(manager: Manager, job: Job) -> Outcome:
    """Drop cached images that no instance uses any more."""
    result: Any = manager.driver.manage_image_cache(request_context(), job.arguments.images)
    return Outcome(dict(result or {}))

# SPDX-License-Identifier: Apache-2.0
"""Verbs on volumes, and on the image cache."""

from collections.abc import Mapping
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


def _changed(record: InstanceRecord, volume_id: str, /, **fields: Any) -> InstanceRecord:
    """Return the record with ``fields`` of a volume's device changed; its place in the list stays."""
    devices = [
        msgspec.structs.replace(device, **fields) if device.volume_id == volume_id else device
        for device in record.instance.block_device_mapping
    ]
    return _with(record, devices)


def _device(volume: Volume) -> BlockDevice:
    values = {name: getattr(volume, name) for name in volume.__struct_fields__}
    return BlockDevice(source_type=SourceType.VOLUME, **values)


def _connection(
    volume: Volume | BlockDevice, info: Mapping[str, Any] | None = None, **data: Any
) -> dict[str, Any]:
    """Return a volume's ``connection_info`` as the driver gets it: with what is known beside it.

    :param info: a newer one
    :param data: what is known besides, for its ``data``
    """
    made = dict(volume.connection_info or {} if info is None else info) | {"serial": volume.volume_id}
    if volume.read_only:
        data["access_mode"] = "ro"
    if volume.encryption:
        made["encryption"] = volume.encryption
    known = made.get("data")
    if data and (known is None or isinstance(known, Mapping)):
        made["data"] = {**(known or {}), **data}
    return made


@verb("attach_volume", starts_from=ATTACHABLE, probe=DISKS)
def attach_volume(manager: Manager, job: Job) -> Outcome:
    """Give an instance a volume, whose device's name goes on record."""
    volume: Volume = job.arguments.volume
    name = manager.driver.attach_volume(
        request_context(),
        _connection(volume),
        job.instance.instance,
        volume.mountpoint,
        volume.disk_bus,
        volume.device_type,
        volume.encryption,
    )

    made = msgspec.structs.replace(volume, mountpoint=volume.mountpoint or name)

    def change(record: InstanceRecord) -> InstanceRecord:
        return _with(record, [*_without_volume(record, volume.volume_id), _device(made)])

    return Outcome(change=change)


@verb("detach_volume", starts_from=ATTACHABLE, probe=DISKS)
def detach_volume(manager: Manager, job: Job) -> Outcome:
    """Take a volume from an instance, once the guest has released it."""
    volume_id = job.arguments.volume_id
    device = _volume(job.instance, volume_id)
    manager.driver.detach_volume(
        request_context(),
        _connection(device),
        job.instance.instance,
        device.mountpoint,
        device.encryption,
    )
    return Outcome(change=lambda record: _with(record, _without_volume(record, volume_id)))


@verb("swap_volume", starts_from=ATTACHABLE, probe=DISKS)
def swap_volume(manager: Manager, job: Job) -> Outcome:
    """Move a running guest from one volume to another, which takes the other's place."""
    wanted, new = job.arguments, job.arguments.volume
    old = _volume(job.instance, wanted.old_volume_id)
    manager.driver.swap_volume(
        request_context(),
        _connection(old),
        _connection(new),
        job.instance.instance,
        old.mountpoint,
        wanted.resize_to,
    )
    fields = {
        "volume_id": new.volume_id,
        "connection_info": new.connection_info,
        "encryption": new.encryption,
        "read_only": new.read_only,
        "size_gb": wanted.resize_to or old.size_gb,
        "tag": new.tag or old.tag,
    }
    return Outcome(change=lambda record: _changed(record, wanted.old_volume_id, **fields))


@verb("extend_volume", starts_from=ATTACHABLE, probe="the size that the guest sees")
def extend_volume(manager: Manager, job: Job) -> Outcome:
    """Tell a guest that a volume has grown."""
    wanted = job.arguments
    device = _volume(job.instance, wanted.volume_id)
    info = wanted.connection_info or device.connection_info
    manager.driver.extend_volume(_connection(device, info, size_gb=wanted.size_gb), job.instance.instance)
    return Outcome(change=lambda record: _changed(record, wanted.volume_id, size_gb=wanted.size_gb))


@verb("volume_snapshot_create", starts_from=ATTACHABLE, probe="the disk's chain")
def volume_snapshot_create(manager: Manager, job: Job) -> Outcome:
    """Take a snapshot of a volume, as its storage service asks."""
    wanted = job.arguments
    changed = manager.driver.volume_snapshot_create(
        request_context(), job.instance.instance, wanted.volume_id, wanted.create_info
    )
    return _moved(wanted.volume_id, changed)


@verb("volume_snapshot_delete", starts_from=ATTACHABLE, probe="the disk's chain")
def volume_snapshot_delete(manager: Manager, job: Job) -> Outcome:
    """Merge a snapshot of a volume back."""
    wanted = job.arguments
    changed = manager.driver.volume_snapshot_delete(
        request_context(), job.instance.instance, wanted.volume_id, wanted.snapshot_id, wanted.delete_info
    )
    return _moved(wanted.volume_id, changed)


def _moved(volume_id: str, changed: Mapping[str, Any] | None) -> Outcome:
    """Return the outcome where a volume's newest layer is another file now."""
    if not changed:
        return Outcome()

    def change(record: InstanceRecord) -> InstanceRecord:
        info = dict(_volume(record, volume_id).connection_info or {})
        info["data"] = {**(info.get("data") or {}), **changed}
        return _changed(record, volume_id, connection_info=info)

    return Outcome(change=change)


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

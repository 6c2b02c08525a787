# SPDX-License-Identifier: Apache-2.0
"""From a ``connection_info`` to a volume: where it is, its secrets, and the guest's disk.

Pure: nothing is connected, no file is looked at. What comes out is the same each time, so a domain
can be designed again from the record of its instance.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt.design_devices import DiskRole, GuestDisk
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.volumes import brick, checks, iscsi, local, nbd, nfs, rbd, secrets
from compute_agent.virt.libvirt.volumes.place import Place
from compute_agent.virt.libvirt.volumes.secrets import Secret

ConnectionInfo = Mapping[str, Any]
_PROTOCOLS: Mapping[str, Callable[[Mapping[str, Any]], Place]] = {
    "local": local.read,
    "nfs": nfs.read,
    "nbd": nbd.read,
    "iscsi": iscsi.read,
    "rbd": rbd.read,
}
_LUKS = frozenset({"luks", "luks1", "nova.volume.encryptors.luks.luksencryptor"})
_LIMITS = {
    "total_bytes_sec": "total_bytes",
    "read_bytes_sec": "read_bytes",
    "write_bytes_sec": "write_bytes",
    "total_iops_sec": "total_iops",
    "read_iops_sec": "read_iops",
    "write_iops_sec": "write_iops",
}
_HIGHEST_LIMIT = 2**53


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume of an instance.

    :param kind: Cinder's ``driver_volume_type``
    :param data: Cinder's ``data``, for what has to be connected
    :param disk: as the guest gets it
    :param size_bytes: how large its storage service says it is; 0: it does not say
    :param by_host: the host has to connect it, through os-brick
    """

    instance_uuid: str
    volume_id: str
    kind: str
    data: Mapping[str, Any] = dataclasses.field(repr=False)
    disk: GuestDisk
    secrets: tuple[Secret, ...]
    size_bytes: int
    by_host: bool = False

    @property
    def is_file(self) -> bool:
        """Whether it is a file of this host's file systems."""
        return self.disk.network is None and not self.disk.block


def volume_id_of(info: ConnectionInfo) -> str:
    """Return which volume a ``connection_info`` is of.

    :raises InvalidArguments: if it does not say
    """
    data = info.get("data")
    found = info.get("serial") or (data.get("volume_id") if isinstance(data, Mapping) else None)
    if found is None:
        raise checks.wrong("serial", "is missing: it is the volume's id")
    return checks.volume_id(found)


def read(
    info: ConnectionInfo,
    paths: InstancePaths,
    *,
    mountpoint: str | None = None,
    disk_bus: str | None = None,
    device_type: str | None = None,
    encryption: Mapping[str, Any] | None = None,
    boot_index: int | None = None,
) -> Volume:
    """Return the volume that ``info`` tells of.

    :raises InvalidArguments: naming what is wrong
    :raises PermissionDenied: if a path leads where volumes may not be
    :raises UnsupportedOperation: if its kind takes os-brick, which is not installed, or is unknown
    """
    kind, data = _kind(info), info.get("data")
    encryption = encryption or info.get("encryption")
    if not isinstance(data, Mapping):
        raise checks.wrong("data", "is missing")
    volume_id, instance_uuid = volume_id_of(info), paths.uuid
    by_host = is_by_host(kind)
    place = brick.read(kind, paths, volume_id) if by_host else _PROTOCOLS[kind](data)
    kept = _secrets(place, encryption, instance_uuid, volume_id)
    disk = GuestDisk(
        source=place.path or "",
        format=place.format,
        role=DiskRole.VOLUME,
        block=place.block,
        bus=disk_bus,
        device=device_type or "disk",
        target=mountpoint,
        serial=volume_id,
        read_only=_is_read_only(data),
        boot_index=boot_index,
        discard=checks.flag(data, "discard"),
        network=_logged_in(place, instance_uuid, volume_id),
        luks_secret=secrets.secret_uuid(instance_uuid, volume_id, secrets.LUKS) if encryption else None,
        shareable=checks.flag(info, "multiattach"),
        limits=_limits(data),
    )
    size = checks.number(data.get("size_gb") or 0, "size_gb", 2**23) * 2**30
    return Volume(
        instance_uuid=instance_uuid,
        volume_id=volume_id,
        kind=kind,
        data=data,
        disk=disk,
        secrets=kept,
        size_bytes=size,
        by_host=by_host,
    )


def of_device(device: BlockDevice, paths: InstancePaths) -> Volume:
    """Return the volume of an instance's block device.

    :raises InvalidState: if how it is connected is not on record; otherwise as :func:`read`
    """
    if device.connection_info is None:
        raise errors.InvalidState(
            f"how volume {device.volume_id} is connected is not on record",
            hint="update_instance with its block_device_mapping tells it",
        )
    info = described(device.connection_info, device.volume_id, read_only=device.read_only)
    return read(
        info,
        paths,
        mountpoint=device.mountpoint,
        disk_bus=device.disk_bus,
        device_type=device.device_type,
        encryption=device.encryption,
        boot_index=device.boot_index,
    )


def described(info: ConnectionInfo, volume_id: str | None, *, read_only: bool = False) -> dict[str, Any]:
    """Return ``info`` with what is known beside it: the volume's id, and whether it is read only."""
    made = dict(info)
    if volume_id is not None:
        made["serial"] = volume_id
    if read_only and isinstance(made.get("data"), Mapping):
        made["data"] = {**made["data"], "access_mode": "ro"}
    return made


def of_instance(instance: Instance, paths: InstancePaths) -> list[Volume]:
    """Return all volumes of an instance, in order."""
    return [
        of_device(device, paths)
        for device in instance.block_device_mapping
        if device.source_type is SourceType.VOLUME
    ]


def guest_disks(instance: Instance, paths: InstancePaths) -> list[GuestDisk]:
    """Return the volumes of an instance as its disks."""
    return [volume.disk for volume in of_instance(instance, paths)]


def _kind(info: ConnectionInfo) -> str:
    kind = info.get("driver_volume_type")
    if not isinstance(kind, str):
        raise checks.wrong("driver_volume_type", "is missing")
    if kind not in _PROTOCOLS and not brick.knows(kind):
        raise errors.UnsupportedOperation(
            f"volumes of type {kind[:64]} are not known",
            hint=f"known: {', '.join([*_PROTOCOLS, *brick.KINDS])}",
        )
    return kind


def is_by_host(kind: str) -> bool:
    """Return whether the host has to connect volumes of this kind, through os-brick."""
    return brick.knows(kind) or (kind == "iscsi" and bool(CONF.volumes.iscsi_use_multipath))


def _is_read_only(data: Mapping[str, Any]) -> bool:
    mode = checks.text(data, "access_mode") or "rw"
    if mode not in ("rw", "ro"):
        raise checks.wrong("access_mode", "is neither rw nor ro")
    return mode == "ro"


def _limits(data: Mapping[str, Any]) -> dict[str, int]:
    """Return what the storage service wants the guest's QEMU to keep to (``qos_specs``)."""
    specs = data.get("qos_specs") or {}
    if not isinstance(specs, Mapping):
        raise checks.wrong("qos_specs", "are no object")
    found = {}
    for name, field in _LIMITS.items():
        if name in specs:
            text = str(specs[name])
            if not text.isascii() or not text.isdigit() or int(text) > _HIGHEST_LIMIT:
                raise checks.wrong(f"qos_specs {name}", "is no number")
            found[field] = int(text)
    return found


def _logged_in(place: Place, instance_uuid: str, volume_id: str) -> Any:
    if place.network is None or place.login is None:
        return place.network
    login = place.login
    uuid = login.known or secrets.secret_uuid(instance_uuid, volume_id, login.purpose)
    return dataclasses.replace(place.network, username=login.username, secret_type=login.purpose, secret=uuid)


def _secrets(
    place: Place, encryption: Mapping[str, Any] | None, instance_uuid: str, volume_id: str
) -> tuple[Secret, ...]:
    values = {}
    if place.login is not None and place.login.value is not None:
        values[place.login.purpose] = place.login.value
    if encryption:
        values[secrets.LUKS] = _passphrase(encryption)
    return tuple(
        Secret(instance_uuid=instance_uuid, volume_id=volume_id, purpose=purpose, value=value)
        for purpose, value in values.items()
    )


def _passphrase(encryption: Mapping[str, Any]) -> bytes:
    provider = str(encryption.get("provider") or "luks")
    if provider.lower() not in _LUKS:
        raise errors.UnsupportedOperation(
            f"encryption by {provider[:64]} is not offered", hint="QEMU reads LUKS, version 1: provider luks"
        )
    value = encryption.get("passphrase")
    if value is None:
        raise errors.InvalidArguments("encryption: passphrase is missing")
    return checks.secret(value, "encryption: passphrase")

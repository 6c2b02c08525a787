# SPDX-License-Identifier: Apache-2.0
"""An instance's block devices in the form that driver members take: ``block_device_info``.

A dictionary, as in the published contracts::

    {"root_device_name": "/dev/vda",
     "swap": {"device_name": "/dev/vdc", "swap_size": 512, "disk_bus": None} or None,
     "ephemerals": [{"num": 0, "virtual_name": "ephemeral0", "device_name": "/dev/vdb", "size": 10, ...}],
     "block_device_mapping": [{"mount_device": "/dev/vdd", "connection_info": {...}, ...}]}

``swap_size`` is in MiB, ``size`` in GiB. Everything here is pure: no host is asked.
"""

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.instance import Instance

BlockDeviceInfo = Mapping[str, Any] | None
DEFAULT_ROOT = "/dev/vda"
MAPPED = frozenset({SourceType.VOLUME, SourceType.IMAGE})


def get_block_device_info(instance: Instance, block_device_mapping: Sequence[BlockDevice]) -> dict[str, Any]:
    """Return an instance's block devices as driver members take them.

    Ephemeral disks come from the flavor and from blank devices, swap comes from the flavor;
    what has no device name gets the next free one.

    Contract: Mitaka, Queens.
    """
    root = instance.root_device_name or DEFAULT_ROOT
    taken = {root} | {device.mountpoint for device in block_device_mapping if device.mountpoint}
    names = _free_names(root, taken)
    return {
        "root_device_name": root,
        "ephemerals": _ephemerals(instance, block_device_mapping, names),
        "swap": _swap(instance, names),
        "block_device_mapping": [
            _mapped(device) for device in block_device_mapping if device.source_type in MAPPED
        ],
    }


def _free_names(root: str, taken: set[str]) -> Iterator[str]:
    prefix = root.rstrip(string.digits)[:-1]
    return (name for letter in _letters() if (name := prefix + letter) not in taken)


def _letters() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def _ephemerals(
    instance: Instance, devices: Sequence[BlockDevice], names: Iterator[str]
) -> list[dict[str, Any]]:
    found: list[BlockDevice] = [d for d in devices if d.source_type is SourceType.BLANK]
    if instance.flavor.ephemeral_gb:
        found.insert(0, BlockDevice(source_type=SourceType.BLANK, size_gb=instance.flavor.ephemeral_gb))
    return [
        {
            "num": number,
            "virtual_name": f"ephemeral{number}",
            "device_name": device.mountpoint or next(names),
            "size": device.size_gb,
            "disk_bus": device.disk_bus,
            "device_type": device.device_type,
            "boot_index": device.boot_index,
            "tag": device.tag,
        }
        for number, device in enumerate(found)
    ]


def _swap(instance: Instance, names: Iterator[str]) -> dict[str, Any] | None:
    if not instance.flavor.swap_mb:
        return None
    return {"device_name": next(names), "swap_size": instance.flavor.swap_mb, "disk_bus": None}


def _mapped(device: BlockDevice) -> dict[str, Any]:
    return {
        "source_type": device.source_type.value,
        "volume_id": device.volume_id,
        "connection_info": device.connection_info,
        "mount_device": device.mountpoint,
        "boot_index": device.boot_index,
        "size": device.size_gb,
        "disk_bus": device.disk_bus,
        "device_type": device.device_type,
        "read_only": device.read_only,
        "delete_on_termination": device.delete_on_termination,
        "encryption": device.encryption,
        "tag": device.tag,
    }


def block_device_info_get_root_device(block_device_info: BlockDeviceInfo) -> str | None:
    """Return the root device's name, such as ``/dev/vda``; None where it is not told.

    Contract: Queens.
    """
    return (block_device_info or {}).get("root_device_name")


def block_device_info_get_root(block_device_info: BlockDeviceInfo) -> str | None:
    """Return the root device's name: the older name of :func:`block_device_info_get_root_device`.

    Contract: Diablo, Icehouse, Mitaka.
    """
    return block_device_info_get_root_device(block_device_info)


def block_device_info_get_swap(block_device_info: BlockDeviceInfo) -> dict[str, Any]:
    """Return the swap device: ``device_name`` and ``swap_size`` (MiB); None and 0 without one.

    Contract: Diablo, Icehouse, Mitaka, Queens.
    """
    return (block_device_info or {}).get("swap") or {"device_name": None, "swap_size": 0}


def swap_is_usable(swap: Mapping[str, Any] | None) -> bool:
    """Return whether a swap device has a name and a size.

    Contract: Diablo, Icehouse, Mitaka, Queens.
    """
    return bool(swap and swap["device_name"] and swap["swap_size"] > 0)


def block_device_info_get_ephemerals(block_device_info: BlockDeviceInfo) -> list[dict[str, Any]]:
    """Return the ephemeral disks; an empty list without any.

    Contract: Diablo, Icehouse, Mitaka, Queens.
    """
    return (block_device_info or {}).get("ephemerals") or []


def block_device_info_get_mapping(block_device_info: BlockDeviceInfo) -> list[dict[str, Any]]:
    """Return the volumes and further images; an empty list without any.

    Contract: Diablo, Icehouse, Mitaka, Queens.
    """
    return (block_device_info or {}).get("block_device_mapping") or []

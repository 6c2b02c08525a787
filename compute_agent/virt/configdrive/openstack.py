# SPDX-License-Identifier: Apache-2.0
"""OpenStack's metadata: ``openstack/<version>/meta_data.json`` and its neighbours, ``openstack/content/``.

The layout is that of OpenStack's metadata service at version 2018-08-27 (Rocky), which is the newest one
that cloud-init asks for; ``latest`` is the same. There is no ``random_seed``: a drive is the same whenever it
is made anew, and guests have a virtio-rng.
"""

import json
from collections.abc import Sequence
from typing import Any

from compute_agent.model import errors
from compute_agent.virt.configdrive import network
from compute_agent.virt.configdrive.given import Given
from compute_agent.virt.configdrive.injected import InjectedFile

VERSIONS = ("2018-08-27", "latest")
_NO_ADDRESS = "none"


def files(given: Given, injected: Sequence[InjectedFile], user_data: bytes | None) -> dict[str, bytes]:
    """Return OpenStack's files by their paths on the drive."""
    each = {
        "meta_data.json": as_json(meta_data(given, injected)),
        "network_data.json": as_json(network.network_data(given.network)),
        "vendor_data.json": as_json(given.instance.vendor_data, "vendor_data"),
    }
    if user_data is not None:
        each["user_data"] = user_data
    made = {f"openstack/{version}/{name}": data for version in VERSIONS for name, data in each.items()}
    return made | {f"openstack{_content_path(number)}": file.contents for number, file in enumerate(injected)}


def meta_data(given: Given, injected: Sequence[InjectedFile]) -> dict[str, Any]:
    """Return what ``meta_data.json`` says."""
    instance = given.instance
    said: dict[str, Any] = {
        "uuid": instance.uuid,
        "name": instance.display_name or instance.named().name,
        "hostname": given.hostname,
        "launch_index": 0,
        "meta": dict(instance.metadata),
        "devices": [*_tagged_nics(given), *_tagged_disks(given)],
    }
    if instance.project_id is not None:
        said["project_id"] = instance.project_id
    if given.admin_password is not None:
        said["admin_pass"] = given.admin_password
    if instance.ssh_keys:
        said["public_keys"] = {f"key-{number}": key for number, key in enumerate(instance.ssh_keys)}
        said["keys"] = [
            {"name": f"key-{number}", "type": "ssh", "data": key}
            for number, key in enumerate(instance.ssh_keys)
        ]
    if injected:
        said["files"] = [
            {"content_path": _content_path(number), "path": file.path} for number, file in enumerate(injected)
        ]
    return said


def _content_path(number: int) -> str:
    return f"/content/{number:04}"


def _tagged_nics(given: Given) -> list[dict[str, Any]]:
    return [
        {"type": "nic", "mac": vif.address.lower(), "tags": [vif.tag], **_nowhere()}
        for vif in given.network
        if vif.tag is not None
    ]


def _tagged_disks(given: Given) -> list[dict[str, Any]]:
    return [
        {"type": "disk", "serial": disk.volume_id or "", "tags": [disk.tag], **_nowhere()}
        for disk in given.instance.block_device_mapping
        if disk.tag is not None
    ]


def _nowhere() -> dict[str, str]:
    """Where on its bus a device is, is not known when the drive is made: OpenStack's word for that."""
    return {"bus": _NO_ADDRESS, "address": _NO_ADDRESS}


def as_json(value: Any, what: str = "metadata") -> bytes:
    """Return ``value`` as JSON in ASCII, the same text for the same value.

    :raises InvalidArguments: if it can't be told in JSON
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False).encode("ascii")
    except (ValueError, TypeError, RecursionError):
        raise errors.InvalidArguments(f"{what} can't be written as JSON") from None

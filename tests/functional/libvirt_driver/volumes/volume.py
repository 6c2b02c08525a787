# SPDX-License-Identifier: Apache-2.0
"""Volumes as the tests describe them, and what an onlooker sees of those of a guest."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import uuid
from typing import Any

import msgspec

from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.instance import Instance
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer
from tests.rig.volumeguest import Disks

MIB, GIB = 2**20, 2**30
Server = NbdServer | IscsiServer


def described(server: Server, volume_id: str, **data: Any) -> dict[str, Any]:
    """The `connection_info` of a volume with an id."""
    info = server.connection_info
    return info | {"serial": volume_id, "data": info["data"] | data}


def local(place: pathlib.Path, volume_id: str, size: int = 16 * MIB, **data: Any) -> dict[str, Any]:
    """A volume that is a file, made here."""
    path = place / volume_id
    with path.open("wb") as file:
        file.truncate(size)
    return {
        "driver_volume_type": "local",
        "serial": volume_id,
        "data": {"device_path": str(path), **data},
    }


def luks(path: pathlib.Path, phrase: str, size: int = 16 * MIB) -> None:
    """Make a file that is encrypted with LUKS, and offers `size` bytes."""
    secret = path.with_name(f"{path.name}.key")
    secret.write_text(phrase)
    command = ["qemu-img", "create", "-q", "-f", "luks", "--object", f"secret,id=key,file={secret}"]
    command += ["-o", "key-secret=key,iter-time=10", str(path), str(size)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    secret.unlink()


def new_id() -> str:
    return str(uuid.uuid4())


def with_volume(instance: Instance, info: dict[str, Any], **fields: Any) -> Instance:
    """The instance as its record is once a volume is attached."""
    device = BlockDevice(
        source_type=SourceType.VOLUME, volume_id=info["serial"], connection_info=info, **fields
    )
    return msgspec.structs.replace(instance, block_device_mapping=[*instance.block_device_mapping, device])


def disks_of(watched: Watched, instance: Instance) -> Disks:
    return Disks(watched.guest(instance))


def shown(watched: Watched, instance: Instance) -> tuple[list[str], list[str]]:
    """The serial numbers of a guest's disks: in what runs (or would), and in the definition."""
    guest = watched.guest(instance)
    live, kept = guest.xml().findall("devices/disk"), guest.xml(inactive=True).findall("devices/disk")
    return serials(live), serials(kept)


def serials(disks: list[Any]) -> list[str]:
    return [disk.findtext("serial") for disk in disks if disk.findtext("serial")]


def secrets_of(watched: Watched, instance: Instance) -> list[str]:
    """The names of the secrets that libvirt has for an instance."""
    with contextlib.closing(watched.hypervisor.connect()) as connection:
        names = [secret.usageID() for secret in connection.listAllSecrets()]
    return [name for name in names if instance.uuid in name]

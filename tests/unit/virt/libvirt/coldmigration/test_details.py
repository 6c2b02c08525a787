# SPDX-License-Identifier: Apache-2.0
"""What the other host tells of a cold migration is read by types, and by nothing else."""

from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.coldmigration import details
from compute_agent.virt.libvirt.coldmigration.details import Base, Destination, Details, Manifest, Moved, Way
from compute_agent.virt.libvirt.migration import storage

FILE: dict[str, Any] = {"kind": "file", "name": "disk", "size_bytes": 5, "room_bytes": 512}
WAY: dict[str, Any] = {"address": "192.0.2.1", "port": 49300, "secret": "0" * 64, "incarnation": "1" * 32}
BASE: dict[str, Any] = {
    "name": "a" * 40,
    "format": "raw",
    "virtual_size": 1,
    "size_bytes": 1,
    "source_size": 1,
    "sha256": "b" * 64,
}


def _data(**found: Any) -> LiveMigrateData:
    return LiveMigrateData(instance_uuid="8e2f6b0c-6a55-4a9a-9a53-3f0a0f2f4b10", cold=True, details=found)


def test_what_one_end_writes_the_other_reads() -> None:
    found = Details(
        destination=Destination(instances_path="/var/lib/instances", mark="shared_storage_mark_1"),
        disks=[Moved(**FILE)],
        bases=[Base(**BASE)],
        way=Way(**WAY, wanted=["file.disk", f"base.{'a' * 40}"]),
    )
    assert details.read(details.write(_data(), found)) == found


@pytest.mark.parametrize(
    "found",
    [
        {"disks": [FILE | {"name": "../disk"}]},
        {"disks": [FILE | {"name": "disk,format=qcow2"}]},
        {"disks": [FILE | {"kind": "device"}]},
        {"disks": [FILE | {"size_bytes": -1}]},
        {"disks": [FILE | {"mode": 0o4755}]},
        {"disks": [FILE] * 257},
        {"bases": [BASE | {"name": "../" + "a" * 37}]},
        {"bases": [BASE | {"format": "vmdk"}]},
        {"way": WAY | {"address": "host,port=1"}},
        {"way": WAY | {"port": 0}},
        {"way": WAY | {"secret": "none\nother:"}},
        {"way": WAY | {"wanted": ["file.disk,id=x"]}},
        {"destination": {"instances_path": "relative", "mark": "m"}},
    ],
)
def test_what_could_do_harm_is_not_read(found: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArguments):
        details.read(_data(**found))


def test_a_manifest_ends_where_its_room_begins() -> None:
    told = b'{"files":[{"kind":"file","name":"disk","size_bytes":5,"room_bytes":512}]}'
    assert details.manifest(told + bytes(100)) == Manifest(files=[Moved(**FILE)])
    for harm in (b"", bytes(100), b"{", told.replace(b'"disk"', b'"../disk"')):
        with pytest.raises(errors.InvalidArguments):
            details.manifest(harm)


@pytest.mark.parametrize("name", ["owner", "arrived", "arriving", "console.log", "disk.part", "owner.new"])
def test_what_says_something_of_a_host_is_nobodys_to_send(name: str) -> None:
    assert storage.stays(name)
    assert not storage.stays("disk") and not storage.stays("disk.info")

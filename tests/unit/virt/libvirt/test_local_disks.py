# SPDX-License-Identifier: Apache-2.0
"""Which disks an instance gets on this host, and that they stay what they were made as."""

import pathlib
from typing import Any

import msgspec
import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import disks, files, local_disks
from compute_agent.virt.libvirt.design_devices import DiskRole
from compute_agent.virt.libvirt.facts import DiskSettings, Settings
from compute_agent.virt.libvirt.paths import InstancePaths

UUID = "5f0c1a9e-26f0-4d1b-9d5e-0c8d1f2a3b4c"
GIB = 2**30
MIB = 2**20


def instance(**changes: Any) -> Instance:
    flavor = {"vcpus": 1, "memory_mb": 64, "root_gb": 1} | changes.pop("flavor", {})
    image = {"url": "file:///srv/image", "properties": changes.pop("properties", {})}
    return msgspec.convert({"uuid": UUID, "flavor": flavor, "image": image} | changes, Instance)


def wanted(given: Instance, **settings: Any) -> dict[str, local_disks.LocalDisk]:
    made = local_disks.wanted(given, Settings(disks=DiskSettings(**settings)))
    return {disk.name: disk for disk in made}


@pytest.fixture
def paths(tmp_path: pathlib.Path) -> InstancePaths:
    made = InstancePaths(str(tmp_path), UUID)
    files.prepare_directory(made)
    return made


def test_a_flavor_makes_root_ephemeral_and_swap() -> None:
    made = wanted(instance(flavor={"ephemeral_gb": 2, "swap_mb": 64}, root_device_name="/dev/vdc"))
    assert {name: (disk.role, disk.format, disk.size_bytes) for name, disk in made.items()} == {
        "disk": (DiskRole.ROOT, "qcow2", GIB),
        "disk.eph0": (DiskRole.EPHEMERAL, "qcow2", 2 * GIB),
        "disk.swap": (DiskRole.SWAP, "raw", 64 * MIB),
    }
    assert made["disk"].overlay and not made["disk.eph0"].overlay
    assert made["disk"].device.mountpoint == "/dev/vdc"
    assert made["disk.eph0"].file_system == "ext4"
    assert made["disk"].file_system is None


def test_an_instance_that_boots_from_a_volume_has_no_root_disk_here() -> None:
    volume = {"source_type": "volume", "volume_id": "v", "connection_info": {}, "boot_index": 0}
    assert wanted(instance(block_device_mapping=[volume])) == {}
    assert "disk" in wanted(instance(block_device_mapping=[volume | {"boot_index": 1}]))


def test_what_is_promised_is_all_disks_on_this_host_and_no_volume() -> None:
    blank = {"source_type": "blank", "size_gb": 3}
    image = {"source_type": "image", "size_gb": 5, "image": {"url": "file:///srv/other"}}
    volume = {"source_type": "volume", "volume_id": "v", "connection_info": {}, "boot_index": 0}
    flavor = {"root_gb": 7, "ephemeral_gb": 2, "swap_mb": 64}
    every = instance(flavor=flavor, block_device_mapping=[blank, image])
    assert local_disks.promised_bytes(every) == (7 + 2 + 3 + 5) * GIB + 64 * MIB
    booted = instance(flavor=flavor, block_device_mapping=[volume])
    assert local_disks.promised_bytes(booted) == 2 * GIB + 64 * MIB
    own_size = {"url": "file:///srv/image", "min_disk_gb": 4, "size_bytes": MIB}
    assert local_disks.promised_bytes(instance(flavor={"root_gb": 0}, image=own_size)) == 4 * GIB


def test_a_mapped_image_at_boot_index_0_tells_of_the_root_disk() -> None:
    mapped = {
        "source_type": "image",
        "boot_index": 0,
        "size_gb": 5,
        "disk_bus": "scsi",
        "mountpoint": "/dev/sda",
    }
    made = wanted(instance(block_device_mapping=[mapped]))
    assert list(made) == ["disk"]
    assert (made["disk"].size_bytes, made["disk"].device.disk_bus) == (5 * GIB, "scsi")


def test_the_root_disk_is_booted_from_also_where_others_say_they_can_be(paths: InstancePaths) -> None:
    blank = {"source_type": "blank", "size_gb": 1, "boot_index": 1}
    found = disks.of(instance(block_device_mapping=[blank]), paths, Settings())
    assert [disk.boot_index for disk in found] == [0, 1]


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"flavor": {"extra_specs": {"hw:ephemeral_encryption": "true"}}}, {}),
        ({"properties": {"hw_ephemeral_encryption": "yes", "hw_ephemeral_encryption_format": "luks"}}, {}),
        ({}, {"encrypt": True}),
        ({}, {"encrypt": True, "format": "raw", "overlay": False}),
    ],
)
def test_all_disks_are_encrypted_where_flavor_image_or_configuration_say_so(
    given: dict[str, Any], settings: dict[str, Any]
) -> None:
    given["flavor"] = {"swap_mb": 8, "ephemeral_gb": 1} | given.get("flavor", {})
    made = wanted(instance(**given), **settings)
    assert len(made) == 3
    assert all(
        disk.encrypted and disk.format == "qcow2" and disk.passphrase is None for disk in made.values()
    )


def test_one_disk_alone_is_encrypted_where_its_device_says_so() -> None:
    mapped = {"source_type": "blank", "size_gb": 1, "encryption": {"passphrase": "the passphrase"}}
    made = wanted(instance(block_device_mapping=[mapped]))
    assert [disk.encrypted for disk in made.values()] == [False, True]
    assert made["disk.eph0"].passphrase == "the passphrase"
    assert "the passphrase" not in repr(made["disk.eph0"])


@pytest.mark.parametrize(
    ("mapped", "refusal"),
    [
        ({"source_type": "blank"}, errors.InvalidArguments),
        ({"source_type": "image"}, errors.InvalidArguments),
        (
            {"source_type": "blank", "size_gb": 1, "encryption": {"provider": "plain"}},
            errors.UnsupportedOperation,
        ),
        ({"source_type": "blank", "size_gb": 1, "encryption": {"passphrase": ""}}, errors.InvalidArguments),
        ({"source_type": "blank", "size_gb": 1, "encryption": {"passphrase": 7}}, errors.InvalidArguments),
    ],
)
def test_what_can_not_be_made_is_refused(mapped: dict[str, Any], refusal: type[errors.ComputeError]) -> None:
    with pytest.raises(refusal):
        wanted(instance(block_device_mapping=[mapped]))


def test_disks_are_what_they_were_made_as_whatever_the_configuration_says_now(paths: InstancePaths) -> None:
    given = instance(flavor={"ephemeral_gb": 1})
    first = Settings(disks=DiskSettings(format="raw"))
    local_disks.note(paths, local_disks.wanted(given, first))
    now = Settings(disks=DiskSettings(format="qcow2", encrypt=True))
    assert [(d.format, d.encrypted) for d in local_disks.of(given, paths, now)] == [("raw", False)] * 2
    found = disks.of(given, paths, now)
    assert [(disk.format, disk.luks_secret) for disk in found] == [("raw", None)] * 2


def test_a_device_that_was_described_later_is_no_disk_before_it_is_made(paths: InstancePaths) -> None:
    given = instance()
    local_disks.note(paths, local_disks.wanted(given, Settings()))
    blank = {"source_type": "blank", "size_gb": 1}
    later = instance(block_device_mapping=[blank])
    assert [disk.name for disk in local_disks.of(later, paths, Settings())] == ["disk"]


@pytest.mark.parametrize(
    ("io", "cache", "expected"),
    [
        ("native", {"file": "none"}, "native"),
        ("native", {"file": "directsync"}, "native"),
        ("native", {"file": "writeback"}, None),
        ("native", {"block": "none"}, None),
        ("threads", {}, "threads"),
    ],
)
def test_native_io_is_for_disks_past_the_page_cache(
    paths: InstancePaths, io: str, cache: dict[str, str], expected: str | None
) -> None:
    found = disks.of(instance(), paths, Settings(disks=DiskSettings(io=io, cache=cache)))
    assert [disk.io for disk in found] == [expected]

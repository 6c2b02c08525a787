# SPDX-License-Identifier: Apache-2.0
"""The file of a config drive: whole or not there, closed to others, and what its guest sees of it."""

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.virt.configdrive import Given, drive
from compute_agent.virt.libvirt import configdrive
from compute_agent.virt.libvirt.design_devices import DiskRole
from compute_agent.virt.libvirt.paths import InstancePaths
from tests.unit.virt.configdrive.conftest import USER_DATA, UUID, b64, full, plain

OPTIONS = ("config_drive_format", "config_drive_device", "force_config_drive")


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    CONF([], project="compute-agent", default_config_files=[], default_config_dirs=[])
    yield
    for name in OPTIONS:
        CONF.clear_override(name)


@pytest.fixture
def paths(tmp_path: pathlib.Path) -> InstancePaths:
    (tmp_path / UUID).mkdir()
    return InstancePaths(str(tmp_path), UUID)


@pytest.fixture
def made(paths: InstancePaths) -> InstancePaths:
    configdrive.make(full(), paths.config_drive)
    return paths


def read(paths: InstancePaths) -> dict[str, bytes]:
    return drive.read(pathlib.Path(paths.config_drive).read_bytes())


def meta_data(paths: InstancePaths) -> Any:
    return json.loads(read(paths)["openstack/latest/meta_data.json"])


def names(paths: InstancePaths) -> list[str]:
    return sorted(os.listdir(paths.directory))


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_nobody_but_its_owner_reads_it(paths: InstancePaths, umask: int) -> None:
    before = os.umask(umask)
    try:
        configdrive.make(full(), paths.config_drive)
    finally:
        os.umask(before)
    assert os.stat(paths.config_drive).st_mode & 0o777 == 0o600
    assert names(paths) == ["disk.config"]


def test_a_second_making_takes_the_place_of_the_first(made: InstancePaths) -> None:
    configdrive.make(dataclasses.replace(full(), admin_password="other"), made.config_drive)
    assert meta_data(made)["admin_pass"] == "other"


def test_what_an_interrupted_attempt_left_is_swept(paths: InstancePaths) -> None:
    pathlib.Path(f"{paths.config_drive}.0123456789ab.part").write_bytes(b"half")
    configdrive.make(full(), paths.config_drive)
    assert names(paths) == ["disk.config"]


def test_a_drive_that_can_not_be_written_leaves_the_one_before(
    made: InstancePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(configdrive.posix, "fsync", full_disk)
    with pytest.raises(errors.DiskFull):
        configdrive.make(Given(instance=plain()), made.config_drive)
    assert names(made) == ["disk.config"]
    assert meta_data(made)["hostname"] == "web-1"


def test_a_link_in_its_place_is_not_followed(paths: InstancePaths, tmp_path: pathlib.Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.symlink(victim, paths.config_drive)
    with pytest.raises(errors.ComputeError):
        configdrive.guest_disk(plain(config_drive=True), paths)
    configdrive.make(full(), paths.config_drive)
    assert victim.read_bytes() == b"precious"
    assert not os.path.islink(paths.config_drive)


def test_an_empty_disk_takes_no_room(paths: InstancePaths) -> None:
    CONF.set_override("config_drive_format", "vfat")
    configdrive.make(full(), paths.config_drive)
    found = os.stat(paths.config_drive)
    assert found.st_size >= 16 * 2**20
    assert found.st_blocks * 512 < 2**20


@pytest.mark.parametrize(
    ("drive_format", "device", "seen"),
    [
        ("iso9660", "cdrom", "cdrom"),
        ("iso9660", "disk", "disk"),
        ("vfat", "cdrom", "disk"),
        ("vfat", "disk", "disk"),
    ],
)
def test_a_guest_sees_an_optical_drive_or_a_disk(
    paths: InstancePaths, drive_format: str, device: str, seen: str
) -> None:
    CONF.set_override("config_drive_format", drive_format)
    CONF.set_override("config_drive_device", device)
    planned = configdrive.guest_disk(full().instance, paths)
    configdrive.make(full(), paths.config_drive)
    found = configdrive.guest_disk(full().instance, paths)
    assert found is not None
    assert found == planned
    assert (found.device, found.role, found.read_only) == (seen, DiskRole.CONFIG_DRIVE, True)
    assert (found.source, found.format) == (paths.config_drive, "raw")


@pytest.mark.parametrize(
    ("bus", "read_only"), [("virtio", True), ("scsi", True), ("sata", False), ("ide", False)]
)
def test_a_disk_is_read_only_where_its_bus_can_do_that(
    paths: InstancePaths, bus: str, read_only: bool
) -> None:
    CONF.set_override("config_drive_format", "vfat")
    image = Image(url="file:///images/one", properties={"hw_disk_bus": bus})
    found = configdrive.guest_disk(plain(config_drive=True, image=image), paths)
    assert found is not None
    assert found.read_only is read_only


def test_a_drive_that_is_there_is_attached_whatever_the_record_says(made: InstancePaths) -> None:
    """Its format is the one that it has, not the one that new ones get."""
    CONF.set_override("config_drive_format", "vfat")
    found = configdrive.guest_disk(plain(), made)
    assert found is not None
    assert found.device == "cdrom"


def test_without_a_drive_there_is_no_disk(paths: InstancePaths) -> None:
    assert configdrive.guest_disk(plain(), paths) is None


def test_what_comes_with_a_request_shows_in_its_plan(paths: InstancePaths) -> None:
    asking = configdrive.asking(Given(instance=plain(), admin_password="p"))
    assert configdrive.guest_disk(asking, paths) is not None


@pytest.mark.parametrize("drive_format", ["iso9660", "vfat"])
def test_what_the_record_has_lost_is_taken_from_the_drive(paths: InstancePaths, drive_format: str) -> None:
    CONF.set_override("config_drive_format", drive_format)
    configdrive.make(full(), paths.config_drive)
    described = msgspec.structs.replace(full().instance, user_data=None, vendor_data={})
    found = configdrive.recalled(Given(instance=described, admin_password="new"), paths)
    assert found.instance.user_data == b64(USER_DATA)
    assert found.instance.vendor_data == full().instance.vendor_data
    assert found.admin_password == "new"


@pytest.mark.parametrize("text", [b"[1]", b"null", b"{", b"[" * 100_000, b"\xff"])
def test_a_guests_own_idea_of_its_vendor_data_is_taken_if_it_is_an_object(
    paths: InstancePaths, text: bytes
) -> None:
    """The guest of a disk that can't be read-only may have written to it."""
    forged = drive.build({"openstack/latest/vendor_data.json": text}, "vfat", "config-2")
    pathlib.Path(paths.config_drive).write_bytes(forged)
    assert configdrive.recalled(Given(instance=plain()), paths) == Given(instance=plain())


@pytest.mark.parametrize("damage", [b"", b"no drive", bytes(70000)])
def test_nothing_is_recalled_from_a_damaged_drive(paths: InstancePaths, damage: bytes) -> None:
    given = Given(instance=plain())
    pathlib.Path(paths.config_drive).write_bytes(damage)
    assert configdrive.recalled(given, paths) == given


@pytest.mark.parametrize("drive_format", ["iso9660", "vfat"])
def test_a_drive_goes_to_another_host_as_it_is(
    paths: InstancePaths, tmp_path: pathlib.Path, drive_format: str
) -> None:
    CONF.set_override("config_drive_format", drive_format)
    configdrive.make(full(), paths.config_drive)
    packed = configdrive.pack(paths)
    assert packed is not None
    assert len(packed) < 64 * 1024
    there = InstancePaths(str(tmp_path / "other"), UUID)
    os.makedirs(there.directory)
    configdrive.unpack(there, packed)
    assert pathlib.Path(there.config_drive).read_bytes() == pathlib.Path(paths.config_drive).read_bytes()
    assert os.stat(there.config_drive).st_mode & 0o777 == 0o600


def test_without_a_drive_nothing_goes(paths: InstancePaths) -> None:
    assert configdrive.pack(paths) is None


@pytest.mark.parametrize(
    "packed", [b"", b"no zlib", zlib.compress(b"cut off")[:-6], zlib.compress(bytes(2**27))], ids=range(4)
)
def test_what_was_not_packed_so_is_not_written(paths: InstancePaths, packed: bytes) -> None:
    with pytest.raises(errors.InvalidArguments):
        configdrive.unpack(paths, packed)
    assert names(paths) == []


def test_a_drive_is_removed_with_what_attempts_left(made: InstancePaths) -> None:
    pathlib.Path(f"{made.config_drive}.0123456789ab.part").write_bytes(b"half")
    configdrive.remove(made.config_drive)
    configdrive.remove(made.config_drive)
    assert names(made) == []

# SPDX-License-Identifier: Apache-2.0
"""Disks that need no qemu-img, encrypted ones, and what becomes of each when there is no room."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from compute_agent.model import errors
from compute_agent.virt.images import allocation, disks
from compute_agent.virt.images.cache import ImageCache
from compute_agent.virt.images.disks import Making
from tests.unit.virt.images.conftest import Store

MIB = 2**20
GIB = 2**30


def probed(path: pathlib.Path) -> dict[str, str]:
    """What `blkid` finds in a file."""
    command = ["blkid", "--probe", "-o", "export", str(path)]
    told = subprocess.run(command, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in told.splitlines())


@pytest.mark.parametrize("size", [40960, MIB, 3 * MIB + 5, 16 * GIB])
def test_swap_is_what_mkswap_would_have_made(tmp_path: pathlib.Path, size: int) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        allocation.blank(str(path), size)
    allocation.write_swap_header(str(ours), "swap")
    subprocess.run(["mkswap", "-L", "swap", str(theirs)], check=True, capture_output=True)
    found, expected = probed(ours), probed(theirs)
    uuids = {found.pop("UUID"), expected.pop("UUID")}
    assert len({uuid.UUID(one) for one in uuids}) == 2
    assert {name: value for name, value in found.items() if name != "DEVNAME"} == {
        name: value for name, value in expected.items() if name != "DEVNAME"
    }
    headers = [path.read_bytes()[:4096] if size < GIB else _head(path) for path in (ours, theirs)]
    plain = [head[:1036] + head[1052:] for head in headers]  # but for the uuid
    assert plain[0] == plain[1]


def _head(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


@pytest.mark.parametrize("disk_format", ["qcow2", "raw"])
def test_a_disk_is_nobody_elses_business(
    tmp_path: pathlib.Path, store: Store, cache: ImageCache, disk_format: str
) -> None:
    """Whatever made it, and under any umask: libvirt hands it to QEMU's user, and nobody else reads it."""
    base = cache.ensure(store.make("image")).path
    disks.create_overlay(str(tmp_path / "overlay"), base, "qcow2", 64 * MIB)
    disks.create_copy(str(tmp_path / "copy"), base, "qcow2", 64 * MIB, disk_format)
    disks.create_copy(str(tmp_path / "plain"), base, "raw", 64 * MIB, disk_format)
    disks.create_blank(str(tmp_path / "blank"), MIB, disk_format)
    disks.create_formatted(str(tmp_path / "formatted"), 2 * MIB, disk_format, "ext2", "label")
    disks.create_swap(str(tmp_path / "swap"), MIB, disk_format, "swap")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()}
    names = ("overlay", "copy", "plain", "blank", "formatted", "swap")
    assert {name: modes[name] for name in names} == dict.fromkeys(names, 0o600)


def test_swap_that_is_too_small_is_refused(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "swap")
    with pytest.raises(errors.InvalidArguments):
        disks.create_swap(path, 4096, "raw", "swap")
    assert os.listdir(tmp_path) == []


def test_where_the_file_system_shares_no_extents_a_copy_is_made_all_the_same(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * MIB)
    refused = OSError(errno.EOPNOTSUPP, "not here")
    with mock.patch.object(allocation.fcntl, "ioctl", autospec=True, side_effect=refused):
        assert not allocation.clone(str(source), str(tmp_path / "copy"), 2 * MIB)
        assert not (tmp_path / "copy").exists()
        disks.create_copy(str(tmp_path / "copy"), str(source), "raw", 2 * MIB, "raw")
    assert (tmp_path / "copy").read_bytes() == b"x" * MIB + bytes(MIB)


def test_where_it_does_the_copy_shares_them_and_no_program_is_run(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * MIB)

    def share(fd: int, request: int, there: int) -> int:
        assert request == 0x40049409
        os.pwrite(fd, os.pread(there, MIB, 0), 0)
        return 0

    with (
        mock.patch.object(allocation.fcntl, "ioctl", autospec=True, side_effect=share),
        mock.patch.object(disks.qemu_img, "run", autospec=True) as qemu_img,
    ):
        disks.create_copy(str(tmp_path / "copy"), str(source), "raw", 2 * MIB, "raw")
    assert (tmp_path / "copy").read_bytes() == b"x" * MIB + bytes(MIB)
    assert not qemu_img.called


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_preallocated_disk_has_its_room_and_its_size(tmp_path: pathlib.Path, disk_format: str) -> None:
    path = tmp_path / "disk"
    disks.create_blank(str(path), 8 * MIB, disk_format, Making(preallocate=True))
    assert path.stat().st_blocks * 512 >= 8 * MIB
    assert disks.info(str(path), disk_format).virtual_size == 8 * MIB


def test_room_that_can_not_be_set_aside_is_typed_and_nothing_is_left(tmp_path: pathlib.Path) -> None:
    with (
        mock.patch.object(allocation, "reserve", autospec=True, side_effect=errors.HypervisorError("no")),
        pytest.raises(errors.HypervisorError),
    ):
        disks.create_blank(str(tmp_path / "disk"), MIB, "raw", Making(preallocate=True))
    assert os.listdir(tmp_path) == []


class Encrypted:
    """A key, and what it opens."""

    def __init__(self, directory: pathlib.Path) -> None:
        directory.mkdir()
        self.key = directory / "key, with a comma"
        self.key.write_text("the key")
        self.how = Making(key=str(self.key), stretch=False)

    def reads(self, path: pathlib.Path, pattern: int) -> bool:
        """Whether a disk begins with MiB of `pattern`, for who has the key."""
        escaped = str(self.key).replace(",", ",,")
        opened = f"driver=qcow2,file.filename={path},encrypt.key-secret=key"
        command = ["qemu-io", "-r", "--object", f"secret,id=key,file={escaped}", "--image-opts", opened]
        told = subprocess.run([*command, "-c", f"read -P {pattern} 0 1M"], capture_output=True, text=True)
        return told.returncode == 0 and "Pattern verification failed" not in told.stdout


def test_an_encrypted_copy_is_grown_and_read_with_its_key_alone(
    cache: ImageCache, store: Store, tmp_path: pathlib.Path
) -> None:
    base, encrypted = cache.ensure(store.make("image")), Encrypted(tmp_path / "keys")
    copy = tmp_path / "copy"
    disks.create_copy(str(copy), base.path, base.format, 128 * MIB, "qcow2", encrypted.how)
    assert disks.info(str(copy), "qcow2").virtual_size == 128 * MIB
    assert encrypted.reads(copy, 7)
    assert b"\x07" * 4096 not in copy.read_bytes()
    disks.resize(str(copy), "qcow2", 256 * MIB, encrypted.how)
    assert disks.info(str(copy), "qcow2").virtual_size == 256 * MIB
    assert encrypted.reads(copy, 7)


def test_an_encrypted_disk_is_tried_again_where_qemu_could_not_time_itself(tmp_path: pathlib.Path) -> None:
    encrypted = Encrypted(tmp_path / "keys")
    real, tries = disks.qemu_img.run, [errors.HypervisorError("no accurate CPU usage")] * 3

    def run(arguments: list[str], *, writes: str | None = None) -> object:
        if tries:
            raise tries.pop()
        return real(arguments, writes=writes)

    with mock.patch.object(disks.qemu_img, "run", autospec=True, side_effect=run):
        disks.create_blank(str(tmp_path / "disk"), MIB, "qcow2", encrypted.how)
    assert encrypted.reads(tmp_path / "disk", 0)


@pytest.fixture
def full(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system without room."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], check=True)
    with (small / "ballast").open("wb") as ballast:
        ballast.write(bytes(2 * MIB - 65536))
    yield small
    subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path, base: disks.create_overlay(path, base, "raw", GIB), id="overlay"),
        pytest.param(lambda path, base: disks.create_copy(path, base, "raw", GIB, "raw"), id="raw copy"),
        pytest.param(lambda path, base: disks.create_copy(path, base, "raw", GIB, "qcow2"), id="qcow2 copy"),
        pytest.param(lambda path, base: disks.create_blank(path, GIB), id="blank"),
        pytest.param(
            lambda path, base: disks.create_blank(path, GIB, "raw", Making(preallocate=True)), id="room"
        ),
        pytest.param(
            lambda path, base: disks.create_formatted(path, GIB, "raw", "ext4", "label"), id="file system"
        ),
        pytest.param(
            lambda path, base: disks.create_formatted(path, GIB, "qcow2", "ext4", "label"), id="converted"
        ),
        pytest.param(lambda path, base: disks.create_swap(path, MIB, "qcow2", "label"), id="swap"),
    ],
)
def test_without_room_each_kind_of_disk_is_diskfull_and_nothing_is_left(
    full: pathlib.Path, tmp_path: pathlib.Path, make: Callable[[str, str], None]
) -> None:
    base = tmp_path / "base"
    base.write_bytes(os.urandom(256 * 1024))
    with pytest.raises(errors.DiskFull):
        make(str(full / "disk"), str(base))
    assert os.listdir(full) == ["ballast"]


def test_a_program_that_is_not_installed_is_named(tmp_path: pathlib.Path) -> None:
    with (
        mock.patch.object(shutil, "which", autospec=True, return_value=None),
        pytest.raises(errors.HypervisorError, match=r"mkfs\.vfat"),
    ):
        disks.mkfs("vfat", "label", str(tmp_path / "disk"))

# SPDX-License-Identifier: Apache-2.0
"""What a guest's disk stands on is known before qemu-img reads it, whatever its QEMU wrote into it."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from compute_agent.model import errors
from compute_agent.virt.images import standing


def create(path: pathlib.Path, *options: str, size: str = "1M") -> pathlib.Path:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "_base"
    path.mkdir()
    (path / "raw").write_bytes(bytes(2**20))
    create(path / "qcow2")
    return path


def check(path: pathlib.Path, cache: pathlib.Path, disk_format: str = "qcow2") -> str | None:
    return standing.check(str(path), disk_format, str(cache))


@pytest.mark.parametrize("base", ["raw", "qcow2"])
def test_a_disk_may_stand_on_an_image_of_the_cache(
    tmp_path: pathlib.Path, cache: pathlib.Path, base: str
) -> None:
    disk = create(tmp_path / "disk", "-F", base, "-b", str(cache / base))
    assert check(disk, cache) == str(cache / base)


def test_a_disk_may_stand_on_nothing(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    assert check(create(tmp_path / "disk"), cache) is None
    assert check(cache / "raw", cache, "raw") is None


@pytest.mark.parametrize(
    "where", ["/etc/passwd", "{cache}/../secret", "{cache}/inner/x", "json:{{}}", "nbd:x:1"]
)
def test_a_disk_that_stands_on_anything_else_is_refused(
    tmp_path: pathlib.Path, cache: pathlib.Path, where: str
) -> None:
    disk = create(tmp_path / "disk", "-F", "raw", "-b", where.format(cache=cache), "-u")
    with pytest.raises(errors.ImageUnsafe):
        check(disk, cache)


def test_a_link_in_the_cache_is_refused(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    (cache / "link").symlink_to("/etc/passwd")
    with pytest.raises(errors.ComputeError):
        check(create(tmp_path / "disk", "-F", "raw", "-b", str(cache / "link"), "-u"), cache)


def test_a_chain_is_refused(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    create(cache / "middle", "-F", "raw", "-b", str(cache / "raw"))
    with pytest.raises(errors.ImageUnsafe):
        check(create(tmp_path / "disk", "-F", "qcow2", "-b", str(cache / "middle")), cache)


def test_data_in_another_file_are_refused(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    with pytest.raises(errors.ImageUnsafe):
        check(create(tmp_path / "disk", "-o", f"data_file={tmp_path / 'data'}"), cache)


@pytest.mark.parametrize("contents", [b"", b"QFI\xfb", b"not a disk" * 100])
def test_what_is_no_qcow2_file_is_refused(
    tmp_path: pathlib.Path, cache: pathlib.Path, contents: bytes
) -> None:
    (tmp_path / "disk").write_bytes(contents)
    with pytest.raises(errors.ImageUnsafe):
        check(tmp_path / "disk", cache)


def test_a_disk_that_is_not_there_can_not_be_judged(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidState):
        check(tmp_path / "disk", cache)

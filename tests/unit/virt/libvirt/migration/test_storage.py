# SPDX-License-Identifier: Apache-2.0
"""Marks on storage, and the small files that go along with a guest."""

from __future__ import annotations

import os
import pathlib

import msgspec
import pytest

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.virt.libvirt import logs
from compute_agent.virt.libvirt.migration import storage
from compute_agent.virt.libvirt.paths import InstancePaths

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"


@pytest.fixture
def here(tmp_path: pathlib.Path) -> InstancePaths:
    """An instance's directory with a bit of everything."""
    paths = InstancePaths(str(tmp_path / "here"), UUID)
    directory = pathlib.Path(paths.directory)
    directory.mkdir(parents=True)
    for name in ("disk", "owner", "console.log", "console.log.0", "disk.swap.part", "disk.info"):
        (directory / name).write_text(name)
    (directory / "disk.config").write_bytes(bytes(100_000))
    (directory / "disk.config").chmod(0o600)
    (directory / "link").symlink_to("/etc/passwd")
    return paths


def test_a_console_goes_on_from_what_was_said_elsewhere_and_nothing_is_overwritten(
    here: InstancePaths, tmp_path: pathlib.Path
) -> None:
    there = InstancePaths(str(tmp_path / "there"), UUID)
    older = pathlib.Path(f"{there.console_log}.0")
    older.parent.mkdir(parents=True)
    said = storage.spoken(here)
    storage.go_on_from(there, said)
    assert older.read_text() == "console.log.0console.log" and older.stat().st_mode & 0o777 == 0o600
    pathlib.Path(there.console_log).write_text(", and more")
    told = logs.rotated_tail(there.console_log, 1000)
    assert told == b"console.log.0console.log, and more"
    older.write_text("turned over since")
    storage.go_on_from(there, said)
    storage.go_on_from(there, None)
    assert older.read_text() == "turned over since"


def test_a_mark_is_seen_where_the_storage_is_the_same_and_only_there(tmp_path: pathlib.Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    other.mkdir()
    mark = storage.leave_mark(str(one))
    assert storage.sees_mark(str(one), mark)
    assert not storage.sees_mark(str(other), mark)
    assert not storage.sees_mark(str(tmp_path / "missing"), mark)
    storage.remove_mark(str(one), mark)
    storage.remove_mark(str(one), mark)
    assert not storage.sees_mark(str(one), mark)


@pytest.mark.parametrize("name", ["owner", "../owner", "", "shared_storage_mark_x"])
def test_what_is_no_mark_is_neither_looked_for_nor_removed(tmp_path: pathlib.Path, name: str) -> None:
    with pytest.raises(errors.InvalidArguments):
        storage.sees_mark(str(tmp_path), name)
    with pytest.raises(errors.InvalidArguments):
        storage.remove_mark(str(tmp_path), name)


def test_notes_and_config_drive_go_along_and_arrive_as_they_were(
    here: InstancePaths, tmp_path: pathlib.Path
) -> None:
    carried = storage.carried(here, {"disk"})
    assert [file.name for file in carried] == ["disk.config", "disk.info"]
    there = InstancePaths(str(tmp_path / "there"), UUID)
    pathlib.Path(there.directory).mkdir(parents=True)
    storage.unpack(there, carried)
    storage.unpack(there, carried)
    drive = pathlib.Path(there.config_drive)
    assert drive.read_bytes() == bytes(100_000) and drive.stat().st_mode & 0o777 == 0o600
    assert pathlib.Path(there.disk_info).read_text() == "disk.info"
    assert len(list(drive.parent.iterdir())) == 2


def test_a_file_that_came_damaged_or_is_none_of_the_sources_business_is_not_written(
    here: InstancePaths, tmp_path: pathlib.Path
) -> None:
    there = InstancePaths(str(tmp_path / "there"), UUID)
    pathlib.Path(there.directory).mkdir(parents=True)
    file = storage.carried(here, {"disk"})[0]
    for bad in (
        msgspec.structs.replace(file, sha256="0" * 64),
        msgspec.structs.replace(file, packed="AAAA"),
        msgspec.structs.replace(file, name="owner"),
    ):
        with pytest.raises(errors.InvalidArguments):
            storage.unpack(there, [bad])
    assert list(pathlib.Path(there.directory).iterdir()) == []


def test_a_check_that_is_repeated_leaves_one_mark_and_takes_old_ones_away(tmp_path: pathlib.Path) -> None:
    long_ago = tmp_path / ("shared_storage_mark_" + "0" * 32)
    long_ago.touch()
    os.utime(long_ago, (0, 0))
    with steps.working(steps.Work("11111111-2222-4333-8444-555555555555", "migrate")):
        marks = {storage.leave_mark(str(tmp_path)) for _ in range(3)}
        assert marks == {storage.name_of_mark()} == {path.name for path in tmp_path.iterdir()}
    assert storage.leave_mark(str(tmp_path)) not in marks

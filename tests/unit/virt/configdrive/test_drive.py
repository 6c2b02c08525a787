# SPDX-License-Identifier: Apache-2.0
"""A drive's bytes: the same for the same files, and read by others as what they are."""

import contextlib
import io
import os
import pathlib
import subprocess
import time

import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_agent.model import errors
from compute_agent.virt import configdrive
from compute_agent.virt.configdrive import drive, fat
from tests.rig.process import tool
from tests.unit.virt.configdrive.conftest import b64, full, plain

FORMATS = ("iso9660", "vfat")
NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_characters="/\x7f"), min_size=1, max_size=60
)
PATHS = st.lists(
    st.lists(NAMES.filter(lambda name: name.strip(".")), min_size=1, max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    ),
    max_size=12,
    unique=True,
)


def build(files: dict[str, bytes], drive_format: str, label: str = "config-2") -> bytes:
    return configdrive.build(files, drive_format, label)


@pytest.mark.parametrize("drive_format", FORMATS)
def test_a_drive_reads_back_as_its_files(drive_format: str) -> None:
    files = configdrive.files(full())
    assert drive.read(build(files, drive_format)) == files


@pytest.mark.parametrize("drive_format", FORMATS)
def test_the_same_files_give_the_same_bytes_at_any_time(
    drive_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = configdrive.files(full())
    first = build(files, drive_format)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        again = build(dict(reversed(files.items())), drive_format)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert again == first


@pytest.mark.parametrize("drive_format", FORMATS)
@pytest.mark.parametrize("label", ["config-2", "cidata"])
def test_a_drive_has_the_label_that_a_guest_looks_for(
    drive_format: str, label: str, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "drive"
    path.write_bytes(build(configdrive.files(full()), drive_format, label))
    command = [tool("blkid", "util-linux"), "--probe", "--output", "value", "--match-tag", "LABEL", str(path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    assert told.strip() == label


def test_linux_and_windows_find_the_same_files_on_an_iso() -> None:
    files = configdrive.files(full())
    opened = pycdlib.PyCdlib()
    opened.open_fp(io.BytesIO(build(files, "iso9660")))
    for path, contents in files.items():
        for kind in ("rr_path", "joliet_path"):
            found = io.BytesIO()
            opened.get_file_from_iso_fp(found, **{kind: f"/{path}"})
            assert found.getvalue() == contents
    opened.close()


def test_mtools_finds_the_same_files_on_a_vfat_drive(tmp_path: pathlib.Path) -> None:
    files = configdrive.files(full())
    path, out = tmp_path / "drive", tmp_path / "out"
    path.write_bytes(build(files, "vfat"))
    out.mkdir()
    command = [tool("mcopy", "mtools"), "-s", "-n", "-i", str(path), "::/", str(out)]
    subprocess.run(
        command, check=True, capture_output=True, timeout=60, env=os.environ | {"MTOOLSRC": os.devnull}
    )
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize("drive_format", FORMATS)
def test_the_largest_drive_can_be_built(drive_format: str) -> None:
    files = [(f"/etc/{number}", b64(bytes([number]) * 8000)) for number in range(128)]
    user_data = b64(os.urandom(1_500_000))
    wanted = configdrive.Given(
        instance=plain(user_data=user_data, vendor_data={"cloud-init": "v" * 7_000_000}), injected_files=files
    )
    made = configdrive.files(wanted)
    assert drive.read(build(made, drive_format)) == made


def test_directories_of_more_than_one_cluster_and_files_of_whole_clusters_are_whole(
    tmp_path: pathlib.Path,
) -> None:
    files = {f"a/{'n' * number}": bytes([number]) * (fat.CLUSTER * (number % 4)) for number in range(1, 100)}
    assert fat.read(fat.build(files, "config-2")) == files


@pytest.mark.parametrize("drive_format", FORMATS)
def test_a_drives_format_shows(drive_format: str) -> None:
    data = build(configdrive.files(full()), drive_format)
    assert drive.format_of(data[: drive.HEAD_BYTES]) == drive_format


@pytest.mark.parametrize("data", [b"", b"CD001", bytes(40000), b"\xeb" + bytes(600)])
def test_what_is_no_drive_is_told(data: bytes) -> None:
    assert drive.format_of(data) is None
    with pytest.raises(ValueError, match="config drive"):
        drive.read(data)


@pytest.mark.parametrize("drive_format", FORMATS)
@settings(max_examples=40, deadline=None)
@given(paths=PATHS, contents=st.binary(max_size=3000))
def test_any_path_in_a_guest_makes_a_drive(drive_format: str, paths: list[str], contents: bytes) -> None:
    wanted = configdrive.Given(
        instance=plain(),
        injected_files=[(path, b64(contents)) for path in paths if len(path.encode()) < 1000],
    )
    made = configdrive.files(wanted)
    assert drive.read(build(made, drive_format)) == made


@settings(max_examples=200, deadline=None)
@given(path=st.text(max_size=80), contents=st.text(max_size=80))
def test_any_text_is_taken_or_refused_by_type(path: str, contents: str) -> None:
    wanted = configdrive.Given(instance=plain(), injected_files=[(path, contents)])
    try:
        made = configdrive.files(wanted)
    except errors.InvalidArguments:
        return
    assert all(name.isascii() and ".." not in name for name in made)


@settings(max_examples=50, deadline=None)
@given(damage=st.binary(min_size=1, max_size=40), place=st.integers(0, 16 * 2**20))
@pytest.mark.parametrize("drive_format", FORMATS)
def test_a_damaged_drive_is_read_or_told_to_be_damaged(drive_format: str, damage: bytes, place: int) -> None:
    data = bytearray(build(configdrive.files(full()), drive_format))
    place %= len(data)
    data[place : place + len(damage)] = damage
    with contextlib.suppress(ValueError):
        drive.read(bytes(data))

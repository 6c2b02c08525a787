# SPDX-License-Identifier: Apache-2.0
"""An instance's directory, and the logs in it."""

import os
import pathlib
import socket
from collections.abc import Iterator

import pytest

from compute_agent.model import errors
from compute_agent.virt.libvirt import files, logs
from compute_agent.virt.libvirt.paths import InstancePaths

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
OWNER = files.Owner(host="here", generation=3, operation_id="an-operation")


@pytest.fixture
def paths(tmp_path: pathlib.Path) -> InstancePaths:
    return InstancePaths(str(tmp_path / "instances"), UUID)


def test_a_directory_says_whose_it_is(paths: InstancePaths) -> None:
    assert files.read_owner(paths) is None
    assert files.is_free(paths)
    for _ in range(2):
        files.make_directory(paths, OWNER)
    assert files.read_owner(paths) == OWNER
    assert not files.is_free(paths)
    assert os.stat(paths.directory).st_mode & 0o777 == 0o711


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[1]", b'{"host": 1}'])
def test_a_damaged_note_is_none(paths: InstancePaths, text: bytes) -> None:
    files.make_directory(paths, OWNER)
    pathlib.Path(paths.owner).write_bytes(text)
    assert files.read_owner(paths) is None


def test_a_note_is_not_read_through_a_link(paths: InstancePaths, tmp_path: pathlib.Path) -> None:
    files.make_directory(paths, OWNER)
    os.rename(paths.owner, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", paths.owner)
    assert files.read_owner(paths) is None


def test_an_empty_directory_is_free(paths: InstancePaths) -> None:
    os.makedirs(paths.directory)
    assert files.is_free(paths)


def test_removing_takes_what_an_earlier_attempt_left(paths: InstancePaths) -> None:
    files.make_directory(paths, OWNER)
    os.makedirs(os.path.join(paths.removed, "half"))
    assert files.remove_directory(paths)
    assert os.listdir(paths.instances_path) == []
    assert not files.remove_directory(paths)


def test_removing_a_link_leaves_what_it_leads_to(paths: InstancePaths, tmp_path: pathlib.Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    os.makedirs(paths.instances_path)
    os.symlink(kept, paths.directory)
    assert files.remove_directory(paths)
    assert (kept / "file").exists()
    assert not os.path.lexists(paths.directory)


def test_a_path_that_can_not_be_made_is_a_typed_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.ComputeError):
        files.make_directory(InstancePaths(str(tmp_path / "file"), UUID), OWNER)


def test_a_reboot_is_noted(paths: InstancePaths) -> None:
    files.make_directory(paths, OWNER)
    assert files.read_reboot(paths) is None
    note = files.Reboot(operation_id="a-reboot", domain_id=None)
    files.write_reboot(paths, note)
    assert files.read_reboot(paths) == note


def test_tails_are_bounded_and_go_back_into_what_was_turned_over(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "console.log"
    assert logs.rotated_tail(str(log), 10) is None
    log.write_bytes(b"0123456789abc")
    assert logs.rotated_tail(str(log), 5) == b"89abc"
    assert logs.rotated_tail(str(log), 100) == b"0123456789abc"
    (tmp_path / "console.log.0").write_bytes(b"older")
    assert logs.rotated_tail(str(log), 15) == b"er0123456789abc"
    assert logs.rotated_tail(str(log), 13) == b"0123456789abc"


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_plain_files_are_read(tmp_path: pathlib.Path, kind: str) -> None:
    path = tmp_path / "console.log"
    if kind == "link":
        (tmp_path / "secret").write_text("secret")
        path.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert logs.tail(str(path), 10) is None


def test_a_name_does_not_lead_out_of_the_logs() -> None:
    assert logs.guest_log("/logs", "instance-1") == "/logs/instance-1.log"
    with pytest.raises(errors.InvalidArguments):
        logs.guest_log("/logs", "../../etc/shadow")


@pytest.fixture
def listening(tmp_path: pathlib.Path) -> Iterator[str]:
    """A socket behind which this very process is, as a libvirtd might be."""
    path = str(tmp_path / "libvirt-sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        yield path


def test_the_systems_logs_are_reached_through_libvirtds_process(listening: str) -> None:
    found = logs.find_directory(f"qemu+unix:///system?socket={listening}")
    assert found == f"/proc/{os.getpid()}/root/var/log/libvirt/qemu"


def test_a_sessions_logs_are_where_its_environment_says(listening: str) -> None:
    found = logs.find_directory(f"qemu+unix:///session?socket={listening}")
    assert found is not None
    assert found.startswith(f"/proc/{os.getpid()}/root/")
    assert found.endswith("/libvirt/qemu/log")


def test_without_libvirtd_the_usual_place_is_taken() -> None:
    assert logs.find_directory("qemu+unix:///system?socket=/nonexistent") == "/var/log/libvirt/qemu"

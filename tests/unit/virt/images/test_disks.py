# SPDX-License-Identifier: Apache-2.0
"""Disks appear whole or not at all, and qemu-img runs under limits."""

from __future__ import annotations

import os
import pathlib
import time

import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import disks, process, qemu_img
from compute_agent.virt.images.cache import ImageCache
from tests.unit.virt.images.conftest import Store, qemu

MIB = 2**20
GIB = 2**30


def test_an_overlay_shows_its_base_and_has_its_own_size(
    cache: ImageCache, store: Store, tmp_path: pathlib.Path
) -> None:
    base = cache.ensure(store.make("image"))
    path = str(tmp_path / "disk")
    disks.create_overlay(path, base.path, base.format, GIB)
    info = disks.info(path, "qcow2")
    assert (info.format, info.virtual_size) == ("qcow2", GIB)
    assert (info.backing_file, info.backing_format) == (base.path, "qcow2")
    qemu("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 0 1M", path)


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_copy_has_the_contents_and_stands_alone(
    disk_format: str, cache: ImageCache, store: Store, tmp_path: pathlib.Path
) -> None:
    base = cache.ensure(store.make("image"))
    path = str(tmp_path / "disk")
    disks.create_copy(path, base.path, base.format, 128 * MIB, disk_format)
    info = disks.info(path, disk_format)
    assert (info.virtual_size, info.backing_file) == (128 * MIB, None)
    qemu("qemu-io", "-r", "-f", disk_format, "-c", "read -P 7 0 1M", path)


def test_a_blank_disk_is_blank(tmp_path: pathlib.Path) -> None:
    disks.create_blank(str(tmp_path / "disk"), 3 * MIB)
    assert disks.info(str(tmp_path / "disk")).virtual_size == 3 * MIB


def test_a_disk_grows_and_never_shrinks(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "disk")
    disks.create_blank(path, 3 * MIB)
    disks.resize(path, "qcow2", 8 * MIB)
    disks.resize(path, "qcow2", 4 * MIB)
    assert disks.info(path).virtual_size == 8 * MIB


def test_a_failure_leaves_nothing_and_shows_what_qemu_img_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.HypervisorError) as caught:
        disks.create_overlay(str(tmp_path / "disk"), "/nonexistent/base", "qcow2", GIB)
    assert "/nonexistent/base" in (caught.value.evidence or "")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_as_such(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_img, "free_bytes", lambda path: 0)
    with pytest.raises(errors.DiskFull):
        disks.create_overlay(str(tmp_path / "disk"), "/nonexistent/base", "qcow2", GIB)


def test_what_an_interrupted_attempt_left_is_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "disk.0123456789ab.part").write_bytes(b"half a disk")
    (tmp_path / "disk.config").write_bytes(b"another disk")
    disks.create_blank(str(tmp_path / "disk"), MIB)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "disk.config"]


def test_making_a_disk_again_replaces_it(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "disk")
    disks.create_blank(path, MIB)
    disks.create_blank(path, 2 * MIB)
    assert disks.info(path).virtual_size == 2 * MIB


def test_removing_a_disk_may_be_repeated(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "disk")
    disks.create_blank(path, MIB)
    (tmp_path / "disk.0123456789ab.part").write_bytes(b"")
    disks.remove(path)
    disks.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_qemu_img_would_take_for_a_protocol_is_refused() -> None:
    with pytest.raises(errors.InvalidArguments):
        disks.create_blank("nbd:localhost:10809", MIB)


@pytest.mark.parametrize(
    ("root_gb", "virtual_size", "expected"),
    [(1, GIB, GIB), (2, GIB, 2 * GIB), (0, 1000, 1024), (0, GIB, GIB)],
)
def test_a_root_disk_has_the_flavors_size_or_else_the_images(
    root_gb: int, virtual_size: int, expected: int
) -> None:
    assert disks.root_size(root_gb, virtual_size) == expected


@pytest.mark.parametrize(("virtual_size", "min_disk_gb"), [(GIB + 1, 0), (1, 2)])
def test_an_image_that_does_not_fit_is_refused(virtual_size: int, min_disk_gb: int) -> None:
    with pytest.raises(errors.ImageTooLarge):
        disks.root_size(1, virtual_size, min_disk_gb)


def test_qemu_img_runs_under_the_configured_limits(
    store: Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CONF.set_override("qemu_img_memory_mb", 300, group="images")
    CONF.set_override("qemu_img_timeout", 7, group="images")
    program = tmp_path / "qemu-img"
    program.write_text("#!/bin/sh\nexec cat /proc/self/limits\n")
    program.chmod(0o755)
    real = process.find
    monkeypatch.setattr(process, "find", lambda name: str(program) if name == "qemu-img" else real(name))
    try:
        said = qemu_img.look(["info"]).stdout.decode()
    finally:
        CONF.clear_override("qemu_img_memory_mb", group="images")
        CONF.clear_override("qemu_img_timeout", group="images")
    limits = {line[:25].strip(): line[26:].split()[0] for line in said.splitlines()}
    assert limits["Max address space"] == str(300 * MIB)
    assert limits["Max cpu time"] == "7"
    assert limits["Max file size"] == str(16 * MIB)


def test_a_process_returns_what_it_said_and_how_it_ended() -> None:
    ended = process.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"out\n", "err\n")


def test_a_process_that_says_much_is_not_stuck() -> None:
    assert len(process.run(["head", "-c", "3000000", "/dev/zero"], timeout_s=10).stdout) == 3_000_000


def test_a_process_sees_neither_our_files_nor_our_input(tmp_path: pathlib.Path) -> None:
    with open(tmp_path / "ours", "w"):
        said = process.run(["sh", "-c", "ls -l /proc/self/fd; cat"], timeout_s=10).stdout.decode()
    assert str(tmp_path) not in said
    assert "0 -> /dev/null" in said


def test_a_process_past_its_time_is_killed(tmp_path: pathlib.Path) -> None:
    started = time.monotonic()
    with pytest.raises(errors.Timeout):
        process.run(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 100"], timeout_s=0.3)
    assert time.monotonic() - started < 5
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_a_cancelled_operation_kills_its_process(tmp_path: pathlib.Path) -> None:
    work = steps.Work("one")

    def cancel() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            concurrency.sleep(0.01)
        work.cancel_requested.set()

    task = concurrency.spawn(cancel)
    with steps.working(work), pytest.raises(errors.Cancelled):
        process.run(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 100"], timeout_s=30)
    task.wait()
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}")


def test_a_limit_on_processor_time_ends_a_process_that_spins() -> None:
    ended = process.run(["sh", "-c", "while :; do :; done"], timeout_s=20, limits=process.Limits(cpu_s=1))
    assert ended.returncode < 0


def test_a_program_that_is_not_installed_is_told() -> None:
    with pytest.raises(errors.HypervisorError, match="not installed"):
        process.run(["no-such-program"], timeout_s=1)


def test_the_hub_goes_on_while_a_process_runs() -> None:
    ticks = []
    task = concurrency.spawn(lambda: [ticks.append(concurrency.sleep(0.01)) for _ in range(10)])
    process.run(["sleep", "0.3"], timeout_s=10)
    task.wait()
    assert len(ticks) == 10

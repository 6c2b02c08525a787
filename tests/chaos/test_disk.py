# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, read-only or failing: nothing that was promised is lost, and it goes on by itself.

The directories in question are small file systems in memory, mounted for one test each.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute_agent.failpoints import VARIABLE
from tests.rig.agent import Agent
from tests.rig.bootsector import Images
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender
from tests.rig.webserver import WebServer, chunked

IMAGE = pathlib.Path("/images/any.qcow2")
KIB, MIB = 2**10, 2**20
LONG_S = 60.0
RESERVE_MB = 4
"""What is to be free on the state disk; a quarter of it is in the reserve."""


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=30)


class SmallDisk:
    """A file system of a few MiB."""

    def __init__(self, path: pathlib.Path, size_mib: int) -> None:
        self.path = path
        self.ballast = path / "ballast"
        run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0711", "none", path)

    def fill(self) -> None:
        """Take all the room there is."""
        with open(self.ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self.ballast.unlink()

    def make(self, how: str) -> None:
        """Let it be read-only (`ro`), or not (`rw`); nobody may have a file of it open for writing."""
        run("mount", "-o", f"remount,{how}", self.path)


@pytest.fixture
def small_disk(agent: Callable[..., Agent]) -> Iterator[Callable[[Agent, pathlib.Path, int], SmallDisk]]:
    """Mount a small disk below an agent that does not run yet. It goes with its agent."""
    mounted: list[tuple[Agent, SmallDisk]] = []

    def mount(one: Agent, path: pathlib.Path, size_mib: int) -> SmallDisk:
        mounted.append((one, SmallDisk(path, size_mib)))
        return mounted[-1][1]

    yield mount
    for one, disk in mounted:
        if one.running:
            one.kill()
        run("umount", "-l", disk.path)


def problem(receiver: Receiver, name: str, since: int) -> str:
    """What the heartbeat says of a problem, as soon as it does."""
    report = receiver.wait_for(
        lambda event: name in event["data"]["problems"], type="host.report", since=since, timeout=LONG_S
    )
    return str(report["data"]["problems"][name])


def well(receiver: Receiver, since: int) -> None:
    """Wait until the heartbeat knows no problem."""
    receiver.wait_for(
        lambda event: not event["data"]["problems"], type="host.report", since=since, timeout=LONG_S
    )


def status_says(one: Agent, text: str) -> None:
    wait_until(lambda: text in one.status, LONG_S, f"{text!r} in the agent's status", one.evidence)


def checked(one: Agent, about: str) -> str:
    """What `compute-agent-status check` finds wrong."""
    command = [sys.executable, "-m", "compute_agent.cmd.status", "check", "--format", "json"]
    command += ["--config-file", str(one.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    found = json.loads(done.stdout)["findings"]
    return "; ".join(one["message"] for one in found if (one["about"], one["level"]) == (about, "error"))


def test_on_a_full_state_disk_what_runs_ends_what_comes_waits_and_it_goes_on_by_itself(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    small_disk: Callable[..., SmallDisk],
    tmp_path: pathlib.Path,
) -> None:
    fake = {"ledger": tmp_path / "ledger", "faults": "spawn.start=slow:6*2"}
    options = {"max_concurrent_builds": 2}
    sections = {"DEFAULT": options, "fake": fake, "health": {"state_reserve_mb": RESERVE_MB}}
    one = agent(sections=sections, start=False)
    disk = small_disk(one, one.state_path, 16)
    reserve = one.state_path / "reserve"
    one.start()
    assert reserve.stat().st_blocks * 512 >= RESERVE_MB * MIB // 4
    to = sender(one)
    run_on = [to.cast("spawn", instance=describe(IMAGE)) for _ in range(2)]
    in_line = [to.cast("spawn", instance=describe(IMAGE)) for _ in range(3)]
    for operation in run_on:
        receiver.wait_for(type="operation.started", operation_id=operation, timeout=LONG_S)
    for operation in in_line:
        receiver.wait_for(type="operation.accepted", operation_id=operation, timeout=LONG_S)

    since = receiver.mark()
    disk.fill()
    assert "MiB free" in problem(receiver, "state disk", since)
    status_says(one, "state disk")
    outside = [to.cast("spawn", instance=describe(IMAGE)) for _ in range(3)]
    for operation in run_on:
        receiver.succeeded(operation, timeout=LONG_S)
    assert not reserve.exists(), "it was given up for that"
    assert "no messages are taken: state disk" in one.log_text()
    assert "MiB are free" in checked(one, "state_path")

    one.kill()
    disk.fill()
    one.start(wait=False)
    status_says(one, "waiting for the state disk")
    assert not [event for event in receiver.events if event["operation_id"] in outside]
    begun = {event["operation_id"] for event in receiver.events if event["type"] == "operation.started"}
    assert not begun & set(in_line), "nothing new begins on the reserve"

    since = receiver.mark()
    disk.make_room()
    one.wait_ready()
    for operation in [*in_line, *outside]:
        receiver.succeeded(operation, timeout=LONG_S)
    well(receiver, since)
    wait_until(reserve.exists, LONG_S, "the reserve to be taken again")
    assert len(to.call("list_instance_uuids")["uuids"]) == 8
    assert to.call("ping")["problems"] == {}
    receiver.assert_gapless()


def test_a_failing_state_disk_loses_nothing_and_nothing_is_done_twice(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: pathlib.Path
) -> None:
    points = "store.commit.before=raise:DiskFull@25*6;store.commit.inside=raise:DiskFull@45*4"
    one = agent(sections={"fake": {"ledger": tmp_path / "ledger"}}, environment={VARIABLE: points})
    to = sender(one)
    since = receiver.mark()
    operations = []
    for _ in range(15):
        operations.append(to.cast("spawn", instance=describe(IMAGE)))
        receiver.wait_for(type="operation.accepted", operation_id=operations[-1], timeout=LONG_S)
    for operation in operations:
        receiver.succeeded(operation, timeout=LONG_S)
    well(receiver, since)
    log = one.log_text()
    assert 1 <= log.count("can't be written: failpoint") <= 10
    assert "can be written again" in log
    made = [line for line in (tmp_path / "ledger").read_text().splitlines() if '"effect":"define"' in line]
    assert len(made) == 15
    attempts = {
        event["data"]["attempts"] for event in receiver.events if event["type"] == "operation.succeeded"
    }
    assert attempts == {1}
    receiver.assert_gapless()


def fail_beyond(one: Agent, size: int) -> None:
    """Let the agent's writes fail with an I/O error in all files behind their first `size` bytes."""
    _, most = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (size, most))


def test_a_state_file_that_takes_no_writes_holds_up_what_comes_and_what_ends(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: pathlib.Path
) -> None:
    fake = {"ledger": tmp_path / "ledger", "faults": "power_off=slow:8*1"}
    one = agent(sections={"DEFAULT": {"debug": False}, "fake": fake})
    to = sender(one)
    instances = [describe(IMAGE) for _ in range(4)]
    for instance in instances:
        receiver.succeeded(to.cast("spawn", instance=instance), timeout=LONG_S)
    log = one.state_path / "state.db-wal"
    wait_until(lambda: log.stat().st_size > 2 * 64 * KIB, LONG_S, "a log of some length", one.evidence)
    ends = to.cast("power_off", instance_uuid=instances[0]["uuid"], timeout=0)
    receiver.wait_for(type="operation.started", operation_id=ends, timeout=LONG_S)

    since = receiver.mark()
    fail_beyond(one, 64 * KIB)
    assert "disk I/O error" in problem(receiver, "state disk", since)
    status_says(one, "disk I/O error")
    comes = to.cast("pause", instance_uuid=instances[1]["uuid"])
    assert receiver.types_of(ends) == ["operation.accepted", "operation.started"]
    assert one.log_text().count("ERROR compute_agent.store.database [-] the state file") == 1
    since = receiver.mark()
    problem(receiver, "state disk", since)
    assert receiver.types_of(comes) == []

    since = receiver.mark()
    fail_beyond(one, resource.RLIM_INFINITY)
    for operation in (ends, comes):
        assert receiver.succeeded(operation, timeout=LONG_S)["data"]["attempts"] == 1
    well(receiver, since)
    one.restart(kill=True)
    assert to.call("get_instance", instance_uuid=instances[0]["uuid"])["state"] == "stopped"
    receiver.assert_gapless()


def test_a_read_only_state_disk_is_waited_for(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    small_disk: Callable[..., SmallDisk],
    tmp_path: pathlib.Path,
) -> None:
    sections = {"fake": {"ledger": tmp_path / "ledger"}, "health": {"state_reserve_mb": RESERVE_MB}}
    one = agent(sections=sections, start=False)
    disk = small_disk(one, one.state_path, 16)
    one.start()
    to = sender(one)
    instance = describe(IMAGE)
    receiver.succeeded(to.cast("spawn", instance=instance), timeout=LONG_S)
    one.stop()
    waits = to.cast("pause", instance_uuid=instance["uuid"])
    disk.make("ro")
    one.start(wait=False)
    status_says(one, "waiting for the state disk")
    assert one.running
    disk.make("rw")
    one.wait_ready()
    receiver.succeeded(waits, timeout=LONG_S)
    receiver.assert_gapless()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.mark.parametrize("kind", ["web", "raw", "qcow2"])
def test_a_disk_that_fills_up_in_the_middle_of_an_image_is_told_and_nothing_is_left(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    small_disk: Callable[..., SmallDisk],
    images: Images,
    hypervisor: Hypervisor,
    web: WebServer,
    kind: str,
) -> None:
    sources = f"{web.root}/,{images.directory.as_uri()}/"
    one = agent(hypervisor=True, sections={"images": {"allowed_sources": sources}}, start=False)
    disk = small_disk(one, one.instances_path, 8)
    one.start()
    to = sender(one)
    before = _files(disk.path)
    large = describe(IMAGE)
    large["image"] = {"id": large["uuid"], **_large_image(kind, images, web)}
    error = _error(receiver, to.cast("spawn", instance=large))
    assert error["code"] == "DiskFull"
    assert _files(disk.path) == before
    assert large["uuid"] not in hypervisor.domains()
    assert to.call("list_instance_uuids")["uuids"] == []
    assert not [name for name in one.open_files() if name.startswith(str(disk.path))]
    small = {"id": large["uuid"], "url": images.url(images.qcow2("small-one")), "disk_format": "qcow2"}
    receiver.succeeded(to.cast("cache_images", images=[small]), timeout=LONG_S)
    assert _files(disk.path) > before, "it goes on with what there is room for"


def _large_image(kind: str, images: Images, web: WebServer) -> dict[str, Any]:
    """An image of 16 MiB, of whose size nothing is known before it comes from the web."""
    content = os.urandom(16 * MIB)
    if kind == "web":
        web.answers["/large.raw"] = chunked([content[at : at + MIB] for at in range(0, len(content), MIB)])
        return {"url": f"{web.root}/large.raw", "disk_format": "raw"}
    path = images.directory / "large.raw"
    path.write_bytes(content)
    if kind == "qcow2":
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, path.with_suffix(".qcow2"))
        path.unlink()
        path = path.with_suffix(".qcow2")
    return {"url": images.url(path), "disk_format": kind}


def _error(receiver: Receiver, operation: str) -> dict[str, Any]:
    return dict(receiver.failed(operation, timeout=LONG_S)["data"]["error"])


def _files(path: pathlib.Path) -> set[str]:
    """All files but the mark of an agent that uses the cache."""
    found = {str(found.relative_to(path)) for found in path.rglob("*") if not found.is_dir()}
    return {name for name in found if ".in-use-by-" not in name}

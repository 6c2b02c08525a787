# SPDX-License-Identifier: Apache-2.0
"""Snapshots of real guests: what is in them, and that nothing else has changed, whatever goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import eventlet.green.socket
import msgspec
import pytest

from compute_agent import concurrency, failpoints
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.arguments import Destination
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import DiskFormat, Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.images import web
from tests.functional.libvirt_driver.conftest import Watched
from tests.rig.bootsector import TICKER
from tests.rig.guest import Guest
from tests.rig.hypervisor import bindings
from tests.rig.webserver import WebServer, send

MIB = 2**20


@pytest.fixture
def place(watched: Watched) -> Iterator[pathlib.Path]:
    """A directory that snapshots may go to."""
    path = watched.hypervisor.scratch / f"snapshots-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    CONF.set_override("allowed_destinations", [f"file://{path}/", "http://127.0.0.1/"], "images")
    yield path
    CONF.clear_override("allowed_destinations", "images")


@pytest.fixture
def slowly() -> Iterator[None]:
    """Running guests' disks are copied at a MiB a second."""
    CONF.set_override("snapshot_bandwidth_mb", 1, "libvirt")
    yield
    CONF.clear_override("snapshot_bandwidth_mb", "libvirt")


def large(watched: Watched) -> Instance:
    """A guest that runs, with 12 MiB of data on its disk."""
    instance = watched.instance(TICKER, flavor=Flavor(vcpus=1, memory_mb=32, root_gb=0))
    assert instance.image is not None
    path = pathlib.Path(instance.image.url.removeprefix("file://"))
    with path.open("ab") as file:
        file.write(os.urandom(12 * MIB))
    watched.spawn(instance)
    watched.heard.clear()
    return instance


def snapshot(watched: Watched, instance: Instance, url: str, **fields: Any) -> dict[str, Any]:
    destination = Destination(url=url, **fields)
    return watched.driver.snapshot(None, instance, destination, lambda **_: None)


def image_info(path: pathlib.Path) -> dict[str, Any]:
    told = subprocess.run(
        ["qemu-img", "info", "--output=json", str(path)], check=True, capture_output=True, timeout=60
    )
    return dict(json.loads(told.stdout))


def contents(path: pathlib.Path, disk_format: str) -> str:
    """A hash of what a guest sees on a disk that nobody uses."""
    raw = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    command = ["qemu-img", "convert", "-U", "-f", disk_format, "-O", "raw", str(path), str(raw)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    try:
        return hashlib.sha256(raw.read_bytes()).hexdigest()
    finally:
        raw.unlink()


def left(watched: Watched, instance: Instance, place: pathlib.Path) -> list[str]:
    """What an onlooker finds of an unfinished snapshot: a block job, files beside the disk, at its place."""
    found = [path.name for path in watched.directory(instance).iterdir() if path.name.endswith(".part")]
    if (watched.directory(instance) / "frozen").exists():
        found.append("frozen")
    guest = watched.guest(instance)
    found += ["block job" for disk in guest.xml().findall("devices/disk") if disk.find("mirror") is not None]
    return found + [path.name for path in place.iterdir()]


def disks_of(watched: Watched, instance: Instance) -> list[str]:
    """The disks of a domain, as libvirt shows them, chains too."""
    found = watched.guest(instance).xml().findall("devices/disk")
    for disk in found:
        for source in disk.iter("source"):
            source.attrib.pop("index", None)  # libvirt counts on with each job
    return [ElementTree.tostring(disk, encoding="unicode") for disk in found]


# --- what is in it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "disk_format"),
    [
        ("running", "qcow2"),
        ("running", "raw"),
        ("paused", "qcow2"),
        ("suspended", "qcow2"),
        ("stopped", "raw"),
    ],
)
def test_a_snapshot_is_the_disk_and_stands_on_nothing(
    watched: Watched, place: pathlib.Path, how: str, disk_format: str
) -> None:
    instance = watched.spawned()
    if how == "paused":
        watched.driver.pause(instance)
    elif how == "suspended":
        watched.driver.suspend(None, instance)
    elif how == "stopped":
        watched.driver.power_off(instance)
    state, disks = watched.state(instance), disks_of(watched, instance)
    watched.heard.clear()
    to = place / "copy"
    told = snapshot(watched, instance, to.as_uri(), format=disk_format)
    assert told == {
        "url": to.as_uri(),
        "format": disk_format,
        "virtual_size_bytes": MIB,
        "size_bytes": to.stat().st_size,
        "checksum": f"sha256:{hashlib.sha256(to.read_bytes()).hexdigest()}",
        "quiesced": False,
    }
    info = image_info(to)
    assert (info["format"], info["virtual-size"], info.get("backing-filename")) == (disk_format, MIB, None)
    assert contents(to, disk_format) == contents(watched.directory(instance) / "disk", "qcow2")
    assert to.stat().st_mode & 0o777 == 0o600
    assert left(watched, instance, place) == ["copy"]
    assert (watched.state(instance), disks_of(watched, instance)) == (state, disks)
    assert watched.told(instance) == []


def test_a_raw_disk_is_copied_too(watched: Watched, place: pathlib.Path) -> None:
    CONF.set_override("images_type", "raw", "libvirt")
    try:
        instance = watched.spawned()
    finally:
        CONF.clear_override("images_type", "libvirt")
    snapshot(watched, instance, (place / "live").as_uri())
    watched.driver.power_off(instance)
    snapshot(watched, instance, (place / "cold").as_uri())
    disk = contents(watched.directory(instance) / "disk", "raw")
    assert disk == contents(place / "live", "qcow2") == contents(place / "cold", "qcow2")


def test_a_snapshot_boots(watched: Watched, place: pathlib.Path) -> None:
    instance = watched.spawned(TICKER)
    name = f"{uuid.uuid4().hex}.qcow2"
    snapshot(watched, instance, (place / name).as_uri())
    os.rename(place / name, watched.hypervisor.images_path / name)
    url = (watched.hypervisor.images_path / name).as_uri()
    second = watched.instance(image=Image(url=url, disk_format=DiskFormat.QCOW2))
    watched.spawn(second)
    watched.guest(second).wait_console("tick")
    assert watched.state(instance) is PowerState.RUNNING


# --- what goes wrong ---------------------------------------------------------------------------------


def test_a_guest_that_goes_off_meanwhile_is_copied_all_the_same(
    watched: Watched, place: pathlib.Path, slowly: None
) -> None:
    instance = large(watched)
    pulled = concurrency.spawn(pull_the_plug_when_it_mirrors, watched, instance)
    told = snapshot(watched, instance, (place / "copy").as_uri())
    pulled.wait()
    assert told["virtual_size_bytes"] == 13 * MIB
    assert contents(place / "copy", "qcow2") == contents(watched.directory(instance) / "disk", "qcow2")
    assert left(watched, instance, place) == ["copy"]


def pull_the_plug_when_it_mirrors(watched: Watched, instance: Instance) -> None:
    guest = watched.guest(instance)
    watched.wait(lambda: guest.xml().find("devices/disk/mirror") is not None, "a block job")
    watched.outside(guest.kill)


def test_a_snapshot_is_cancelled_and_leaves_nothing(
    watched: Watched, place: pathlib.Path, slowly: None
) -> None:
    instance = large(watched)
    disks = disks_of(watched, instance)
    guest = watched.guest(instance)
    with watched.operation("snapshot") as work:

        def cancel() -> None:
            watched.wait(lambda: guest.xml().find("devices/disk/mirror") is not None, "a block job")
            watched.wait(lambda: work.progress is not None and work.progress.done > 0, "progress")
            work.cancel()

        concurrency.spawn(cancel)
        with pytest.raises(errors.Cancelled):
            snapshot(watched, instance, (place / "copy").as_uri())
    assert left(watched, instance, place) == []
    assert (disks_of(watched, instance), watched.state(instance)) == (disks, PowerState.RUNNING)


@pytest.mark.parametrize(
    ("point", "how"),
    [
        ("snapshot.copy.after", "running"),
        ("snapshot.copy.after", "stopped"),
        ("snapshot.delivering", "running"),
        ("snapshot.deliver.after", "running"),
        ("snapshot.clean.after", "stopped"),
    ],
)
def test_a_snapshot_that_fails_leaves_nothing(
    watched: Watched, place: pathlib.Path, point: str, how: str
) -> None:
    instance = watched.spawned()
    if how == "stopped":
        watched.driver.power_off(instance)
    failpoints.arm(f"{point}=raise:DiskFull")
    with watched.operation("snapshot"), pytest.raises(errors.DiskFull):
        snapshot(watched, instance, (place / "copy").as_uri())
    assert left(watched, instance, place) == []


def test_what_a_killed_agent_left_is_taken_back_and_the_guest_runs_on(
    watched: Watched, place: pathlib.Path, slowly: None
) -> None:
    instance = large(watched)
    disks = disks_of(watched, instance)
    guest = watched.guest(instance)
    half = watched.directory(instance) / "snapshot.0123456789ab.part"
    copy_slowly(guest, half)
    (place / "copy.id.part").write_bytes(b"half")
    assert left(watched, instance, place) == [half.name, "block job", "copy.id.part"]
    with (
        watched.operation("snapshot", operation_id="id", undo_only=True, attempts=2),
        pytest.raises(errors.Interrupted),
    ):
        snapshot(watched, instance, (place / "copy").as_uri())
    assert left(watched, instance, place) == []
    assert (disks_of(watched, instance), watched.state(instance)) == (disks, PowerState.RUNNING)


def test_what_an_earlier_process_left_goes_when_the_driver_starts_though_nobody_remembers(
    watched: Watched, place: pathlib.Path, slowly: None
) -> None:
    instance = large(watched)
    half = watched.directory(instance) / "snapshot.0123456789ab.part"
    copy_slowly(watched.guest(instance), half)
    watched.driver.cleanup_host("test-host")
    watched.driver.init_host("test-host")
    watched.wait(lambda: left(watched, instance, place) == [], "the clearing")
    assert watched.state(instance) is PowerState.RUNNING


def copy_slowly(guest: Guest, to: pathlib.Path) -> None:
    """Have a guest's disk copied, as a snapshot does and others may."""
    target = guest.xml().find("devices/disk/target")
    assert target is not None
    xml = f"<disk type='file'><source file='{to}'/><driver type='qcow2'/></disk>"
    with guest.domain() as domain:
        flags = bindings().VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        domain.blockCopy(target.attrib["dev"], xml, {"bandwidth": MIB}, flags)


def test_what_others_copy_goes_on(watched: Watched, place: pathlib.Path, slowly: None) -> None:
    instance = large(watched)
    copy_slowly(watched.guest(instance), place / "others")
    with pytest.raises(errors.DeviceBusy):
        snapshot(watched, instance, (place / "copy").as_uri())
    watched.driver.post_interrupted_snapshot_cleanup(None, instance)
    assert left(watched, instance, place) == ["block job", "others"]


REFUSED = [
    "file:///etc/snapshot",
    "{place}/../elsewhere",
    "{place}/link/copy",
    "{place}/taken",
    "{place}/dangling",
    "{place}/missing/copy",
    "{place}/",
    "nbd://127.0.0.1/copy",
    "glance://copy",
    "http://127.0.0.2/copy",
]


def test_a_destination_that_is_not_allowed_is_refused_before_anything_is_copied(
    watched: Watched, place: pathlib.Path
) -> None:
    instance = watched.spawned()
    (place / "link").symlink_to("/tmp")
    (place / "taken").write_bytes(b"mine")
    (place / "dangling").symlink_to(place / "nowhere")
    failpoints.arm("snapshot.copy.before=raise:Internal")
    for url in REFUSED:
        with watched.operation("snapshot"), pytest.raises(errors.PermissionDenied):
            snapshot(watched, instance, url.format(place=place.as_uri()))
    assert (place / "taken").read_bytes() == b"mine"
    assert sorted(path.name for path in place.iterdir()) == ["dangling", "link", "taken"]


def test_an_unknown_format_is_refused(watched: Watched, place: pathlib.Path) -> None:
    with pytest.raises(errors.InvalidArguments):
        snapshot(watched, watched.spawned(), (place / "copy").as_uri(), format="vmdk")


@pytest.mark.parametrize("how", ["running", "stopped"])
def test_a_disk_that_its_qemu_made_stand_on_another_file_is_not_copied(
    watched: Watched, place: pathlib.Path, how: str, tmp_path: pathlib.Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * MIB)
    instance = watched.spawned()
    if how == "stopped":
        watched.driver.power_off(instance)
    command = ["qemu-img", "rebase", "-u", "-U", "-f", "qcow2", "-F", "raw", "-b", str(secret)]
    if how == "stopped":
        command.remove("-U")
        subprocess.run([*command, str(watched.directory(instance) / "disk")], check=True, timeout=60)
    else:
        point_header_at(watched.directory(instance) / "disk", secret)
    with pytest.raises(errors.ImageUnsafe):
        snapshot(watched, instance, (place / "copy").as_uri())
    assert left(watched, instance, place) == []


def point_header_at(disk: pathlib.Path, name: pathlib.Path) -> None:
    """Change what a qcow2 file stands on behind the back of the QEMU that has it open."""
    with disk.open("r+b") as file:
        file.seek(8)
        offset = int.from_bytes(file.read(8), "big")
        file.seek(16)
        file.write(len(str(name)).to_bytes(4, "big"))
        file.seek(offset)
        file.write(str(name).encode())


# --- to a server -------------------------------------------------------------------------------------


class Store:
    """A server that takes what is put there."""

    def __init__(self, server: WebServer) -> None:
        self.server = server
        self.bodies: dict[str, bytes] = {}

    def take(self, status: int = 201) -> Any:
        def answer(handler: Any) -> None:
            assert handler.command == "PUT"
            self.bodies[handler.path] = handler.rfile.read(int(handler.headers["Content-Length"]))
            send(b"", status=status)(handler)

        return answer


@pytest.fixture
def store(place: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(web, "socket", eventlet.green.socket)  # as in the daemon
    with WebServer() as server:
        CONF.set_override("allowed_destinations", [f"{server.root}/public/"], "images")
        yield Store(server)


def test_a_snapshot_is_put_to_a_server_with_its_length_and_headers(
    watched: Watched, store: Store, tmp_path: pathlib.Path
) -> None:
    store.server.answers["/public/copy?sign=secret"] = store.take()
    url = f"{store.server.root}/public/copy?sign=secret"
    instance = watched.spawned()
    told = snapshot(watched, instance, url, format="raw", headers={"X-Auth-Token": "word"})
    ((path, headers),) = store.server.requests
    body = store.bodies[path]
    assert (headers["Content-Length"], headers["X-Auth-Token"]) == (str(len(body)), "word")
    assert (told["size_bytes"], told["checksum"]) == (
        len(body),
        f"sha256:{hashlib.sha256(body).hexdigest()}",
    )
    assert "secret" not in str(told)
    (tmp_path / "copy").write_bytes(body)
    assert contents(tmp_path / "copy", "raw") == contents(watched.directory(instance) / "disk", "qcow2")


def test_a_server_that_does_not_take_it_fails_it(watched: Watched, store: Store, place: pathlib.Path) -> None:
    store.server.answers["/public/copy"] = store.take(403)
    instance = watched.spawned()
    with watched.operation("snapshot"), pytest.raises(errors.ImageUnavailable) as caught:
        snapshot(watched, instance, f"{store.server.root}/public/copy")
    assert not caught.value.retryable
    assert store.server.paths == ["/public/copy"]
    assert left(watched, instance, place) == []


def test_an_upload_to_a_silent_server_can_be_cancelled(
    watched: Watched, store: Store, place: pathlib.Path
) -> None:
    store.server.answers["/public/copy"] = lambda handler: store.server.ended.wait(60)  # type: ignore[assignment,return-value]
    instance = watched.spawned()
    with watched.operation("snapshot") as work:

        def cancel() -> None:
            watched.wait(lambda: store.server.paths, "a request")
            work.cancel()

        concurrency.spawn(cancel)
        with pytest.raises(errors.Cancelled):
            snapshot(watched, instance, f"{store.server.root}/public/copy")
    assert left(watched, instance, place) == []


# --- quiesce, without an agent -----------------------------------------------------------------------


@pytest.mark.parametrize("properties", [{}, {"hw_qemu_guest_agent": "yes"}])
def test_a_guest_without_an_agent_is_not_quiesced(watched: Watched, properties: dict[str, str]) -> None:
    instance = with_properties(watched, properties)
    for verb in (watched.driver.quiesce, watched.driver.unquiesce):
        with pytest.raises(errors.QuiesceNotSupported):
            verb(None, instance, instance.image)
    assert not (watched.directory(instance) / "frozen").exists()


def test_a_guest_that_has_to_be_quiesced_and_can_not_be_is_not_copied(
    watched: Watched, place: pathlib.Path
) -> None:
    instance = with_properties(watched, {"hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"})
    with watched.operation("snapshot"), pytest.raises(errors.QuiesceNotSupported):
        snapshot(watched, instance, (place / "copy").as_uri())
    assert left(watched, instance, place) == []
    watched.driver.power_off(instance)
    snapshot(watched, instance, (place / "copy").as_uri())


def test_one_that_only_should_be_quiesced_is_copied_and_that_is_told(
    watched: Watched, place: pathlib.Path
) -> None:
    instance = with_properties(watched, {"hw_qemu_guest_agent": "yes"})
    assert snapshot(watched, instance, (place / "copy").as_uri())["quiesced"] is False


def with_properties(watched: Watched, properties: dict[str, str]) -> Instance:
    """A guest that runs, whose image has these properties; no agent is in it."""
    instance = watched.instance()
    assert instance.image is not None
    image = msgspec.structs.replace(instance.image, properties=properties)
    instance = msgspec.structs.replace(instance, image=image)
    watched.spawn(instance)
    return instance

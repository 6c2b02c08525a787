# SPDX-License-Identifier: Apache-2.0
"""Snapshots over AMQP: what is told of one, what is never told, and what becomes of one that is cut off."""

from __future__ import annotations

import hashlib
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.serving import Served, serving
from tests.rig.bootsector import TICKER
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.process import wait_until
from tests.rig.receiver import Payload
from tests.rig.webserver import Handler, WebServer, send

MIB = 2**20
CONTENTS_MIB = 39
WAIT_S = 60.0


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    """A server that snapshots may be put to."""
    with WebServer() as server:
        yield server


@pytest.fixture(scope="module")
def place(hypervisor: Hypervisor) -> pathlib.Path:
    """A directory that snapshots may go to."""
    path = hypervisor.scratch / "copies"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest,
    broker: Broker,
    hypervisor: Hypervisor,
    web: WebServer,
    place: pathlib.Path,
) -> Iterator[Served]:
    """An agent with real guests, whose disks are copied slowly, after the 16 MiB that QEMU does at once."""
    sections: dict[str, dict[str, object]] = {
        "images": {"allowed_destinations": [f"file://{place}/", f"{web.root}/public/"]},
        "libvirt": {"snapshot_bandwidth_mb": 8},
    }
    with serving(request, broker, hypervisor, sections=sections) as one:
        yield one


@pytest.fixture(scope="module")
def instance(served: Served) -> str:
    """A guest that runs, with much on its disk."""
    path = served.hypervisor.images_path / f"{uuid.uuid4().hex}.raw"
    path.write_bytes(TICKER.image() + os.urandom(CONTENTS_MIB * MIB))
    image = {"url": path.as_uri(), "disk_format": "raw"}
    return served.spawn(image=image)


def cast(served: Served, instance: str, url: str, **fields: Any) -> str:
    return served.sender.cast("snapshot", instance_uuid=instance, destination={"url": url, **fields})


def mirrors(served: Served, instance: str) -> bool:
    """Whether the guest's disk is being copied."""
    return served.guest(instance).xml().find("devices/disk/mirror") is not None


def goes_on(served: Served, instance: str) -> None:
    """See that the guest runs, on its own disk, with nothing beside it."""
    guest = served.guest(instance)
    assert not mirrors(served, instance)
    directory = pathlib.Path(served.agent.instances_path) / instance
    assert guest.disks == [directory / "disk"]
    assert list(directory.glob("*.part")) == []
    before = len(guest.console())
    wait_until(lambda: len(guest.console()) > before, WAIT_S, "the guest's ticks", guest.console)


def progress(served: Served, operation: str) -> list[Payload]:
    events = [event for event in served.receiver.events if event["type"] == "operation.progress"]
    return [event for event in events if event["operation_id"] == operation]


def test_the_result_tells_size_and_checksum_and_progress_is_told_meanwhile(
    served: Served, instance: str, place: pathlib.Path
) -> None:
    operation = cast(served, instance, (place / "copy").as_uri())
    told = served.receiver.succeeded(operation, timeout=WAIT_S)["data"]["result"]
    contents = (place / "copy").read_bytes()
    assert (told["size_bytes"], told["virtual_size_bytes"]) == (len(contents), (CONTENTS_MIB + 1) * MIB)
    assert told["checksum"] == f"sha256:{hashlib.sha256(contents).hexdigest()}"
    done = [event["data"]["progress"] for event in progress(served, operation)]
    assert any(one is not None and 0 < one["done"] <= (CONTENTS_MIB + 1) * MIB for one in done)
    goes_on(served, instance)
    taken = served.fail("snapshot", instance_uuid=instance, destination={"url": (place / "copy").as_uri()})
    assert taken["code"] == "PermissionDenied"
    assert (place / "copy").read_bytes() == contents


def test_a_snapshot_put_to_a_server_shows_nobody_its_secrets(
    served: Served, instance: str, web: WebServer
) -> None:
    bodies: list[bytes] = []

    def take(handler: Handler) -> None:
        bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        send(b"", status=201)(handler)

    web.answers["/public/copy?signature=s3cret"] = take
    url = f"{web.root}/public/copy?signature=s3cret"
    operation = cast(served, instance, url, headers={"X-Auth-Token": "w0rd"})
    told = served.receiver.succeeded(operation, timeout=WAIT_S)["data"]["result"]
    assert told["checksum"] == f"sha256:{hashlib.sha256(bodies[0]).hexdigest()}"
    assert web.requests[-1][1]["X-Auth-Token"] == "w0rd"
    for text in (str(served.receiver.events), served.agent.log_text()):
        assert "s3cret" not in text and "w0rd" not in text


def test_a_snapshot_is_cancelled_in_the_middle(served: Served, instance: str, place: pathlib.Path) -> None:
    operation = cast(served, instance, (place / "cancelled").as_uri())
    wait_until(lambda: mirrors(served, instance), WAIT_S, "a block job")
    served.do("cancel_operation", target=operation)
    assert served.receiver.end_of(operation, timeout=WAIT_S)["type"] == "operation.cancelled"
    goes_on(served, instance)
    assert list(place.glob("cancelled*")) == []


def test_an_agent_that_is_killed_in_the_middle_takes_it_back_when_it_returns(
    served: Served, instance: str, place: pathlib.Path
) -> None:
    operation = cast(served, instance, (place / "killed").as_uri())
    wait_until(lambda: mirrors(served, instance), WAIT_S, "a block job")
    served.agent.kill()
    assert mirrors(served, instance)
    served.agent.start()
    error = served.receiver.failed(operation, timeout=WAIT_S)["data"]["error"]
    assert error["code"] == "Interrupted"
    goes_on(served, instance)
    assert list(place.glob("killed*")) == []


def test_a_libvirtd_that_is_killed_in_the_middle_does_not_end_it(
    served: Served, instance: str, place: pathlib.Path
) -> None:
    operation = cast(served, instance, (place / "survived").as_uri())
    wait_until(lambda: mirrors(served, instance), WAIT_S, "a block job")
    served.hypervisor.restart(kill=True)
    served.receiver.succeeded(operation, timeout=2 * WAIT_S)
    goes_on(served, instance)

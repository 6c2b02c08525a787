# SPDX-License-Identifier: Apache-2.0
"""Images over HTTP, as the daemon fetches them: once, whole, and again after whatever went wrong."""

from __future__ import annotations

import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.serving import Served, serving
from tests.rig.bootsector import POLITE
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.process import wait_until
from tests.rig.webserver import Answer, WebServer, ranged

SPAWNS = 10


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    """A server that images may come from."""
    with WebServer() as server:
        yield server


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor, web: WebServer
) -> Iterator[Served]:
    """An agent with real guests that may fetch images from `web`."""
    allowed = [f"file://{hypervisor.images_path}/", f"{web.root}/public/"]
    with serving(request, broker, hypervisor, sections={"images": {"allowed_sources": allowed}}) as one:
        yield one


def offered(web: WebServer, *answers: Answer) -> tuple[str, dict[str, Any]]:
    """Offer a new image under a new name; its path, and how `spawn` names it."""
    path = f"/public/{uuid.uuid4().hex}"
    web.answers[path] = list(answers)
    return path, {"url": web.root + path, "disk_format": "raw"}


def new_image() -> bytes:
    """An image that boots, like no other."""
    return POLITE.image() + uuid.uuid4().bytes * 32


def cache_of(served: Served) -> pathlib.Path:
    return pathlib.Path(served.agent.instances_path) / "_base"


def parts_in(served: Served) -> list[pathlib.Path]:
    return list(cache_of(served).glob("*.part"))


def test_ten_spawns_at_once_make_one_download_even_one_that_breaks_off(
    served: Served, web: WebServer
) -> None:
    body = new_image()
    path, image = offered(web, ranged(body, stop_after=len(body) // 2), ranged(body))
    wanted = [served.describe(image=image) for _ in range(SPAWNS)]
    casts = [served.sender.cast("spawn", instance=instance) for instance in wanted]
    for cast in casts:
        served.receiver.succeeded(cast, timeout=120)
    ranges = [headers.get("Range") for asked, headers in web.requests if asked == path]
    assert ranges == [None, f"bytes={len(body) // 2}-"]
    for instance in wanted:
        served.guest(instance["uuid"]).wait_console("Hello")
    for instance in wanted:
        served.do("destroy", instance_uuid=instance["uuid"])
    assert parts_in(served) == []


def test_an_agent_that_is_killed_in_the_middle_of_a_download_begins_it_again(
    served: Served, web: WebServer
) -> None:
    body = new_image()
    path, image = offered(web, web.fall_silent(body[: len(body) // 2], len(body)), ranged(body))
    instance = served.describe(image=image)
    cast = served.sender.cast("spawn", instance=instance)
    wait_until(lambda: parts_in(served), 60, "a download")
    served.agent.kill()
    served.agent.start()
    served.receiver.succeeded(cast, timeout=120)
    assert web.paths.count(path) == 2
    assert parts_in(served) == []
    served.guest(instance["uuid"]).wait_console("Hello")
    served.do("destroy", instance_uuid=instance["uuid"])


def test_a_download_from_a_silent_server_can_be_cancelled(served: Served, web: WebServer) -> None:
    _, image = offered(web, web.fall_silent(b"x", 1000))
    instance = served.describe(image=image)
    cast = served.sender.cast("spawn", instance=instance)
    wait_until(lambda: parts_in(served), 60, "a download")
    served.do("cancel_operation", target=cast)
    assert served.receiver.end_of(cast, timeout=60)["data"]["error"]["code"] == "Cancelled"
    assert served.left_of(instance["uuid"]) == []


def test_the_cache_is_filled_ahead_of_time_and_kept_small(served: Served, web: WebServer) -> None:
    used_path, used = offered(web, ranged(new_image()))
    unused_path, unused = offered(web, ranged(new_image()))
    told = served.do("cache_images", images=[used, unused])["data"]["result"]
    assert len(told["fetched"]) == 2
    uuid_of_guest = served.spawn(image=used)
    assert [web.paths.count(path) for path in (used_path, unused_path)] == [1, 1]
    for name in told["fetched"]:
        os.utime(cache_of(served) / f"{name}.json", (0, 0))
    first = served.do("manage_image_cache", images=[unused])["data"]["result"]
    assert not set(told["fetched"]) & set(first["removed"])
    second = served.do("manage_image_cache")["data"]["result"]
    assert set(told["fetched"]) & set(second["removed"]) == {told["fetched"][1]}
    served.do("reboot", instance_uuid=uuid_of_guest, reboot_type="HARD")
    served.do("destroy", instance_uuid=uuid_of_guest)

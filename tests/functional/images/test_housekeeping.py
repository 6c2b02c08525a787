# SPDX-License-Identifier: Apache-2.0
"""The daemon looks after its image cache without being asked."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE
from tests.rig.hypervisor import Hypervisor
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender


def test_a_daemon_keeps_its_cache_small_by_itself(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    fresh_hypervisor: Hypervisor,
) -> None:
    one = agent(hypervisor=fresh_hypervisor, sections={"image_cache": {"manager_interval": 1}})
    image = fresh_hypervisor.images.raw("unused", POLITE)
    images = [{"url": image.as_uri(), "disk_format": "raw"}]
    told = receiver.succeeded(sender(one).cast("cache_images", images=images), timeout=60)
    (name,) = told["data"]["result"]["fetched"]
    cache = pathlib.Path(one.instances_path) / "_base"
    os.utime(cache / f"{name}.json", (0, 0))
    wait_until(lambda: not (cache / name).exists(), 60, "a round", one.log_text)
    removed = receiver.wait_for(
        lambda event: name in (event["data"].get("result") or {}).get("removed", []), timeout=60
    )["data"]
    assert (removed["verb"], removed["origin"]) == ("manage_image_cache", "agent")

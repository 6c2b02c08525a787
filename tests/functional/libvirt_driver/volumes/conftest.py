# SPDX-License-Identifier: Apache-2.0
"""Volumes of real guests: where they may be, who serves them, and guests that say what they see of them."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute_agent.conf import CONF
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import Server
from tests.rig import volumeguest


@pytest.fixture
def place(watched: Watched) -> Iterator[pathlib.Path]:
    """A directory that volumes may be in."""
    path = watched.hypervisor.scratch / f"volumes-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    CONF.set_override("allowed_paths", [f"{path}/"], "volumes")
    yield path
    CONF.clear_override("allowed_paths", "volumes")


@pytest.fixture
def served(place: pathlib.Path) -> Iterator[Callable[..., Any]]:
    """Starts servers of volumes, and ends them."""
    started: list[Server] = []

    def start(server: Server) -> Server:
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.close()


@pytest.fixture
def linux(watched: Watched) -> Callable[..., Instance]:
    """Spawns Linux guests that watch their disks."""
    kernel, ramdisk = volumeguest.files(watched.hypervisor.images_path)

    def spawn(**fields: Any) -> Instance:
        wanted: dict[str, Any] = {
            "image": None,
            "kernel": kernel.as_uri(),
            "ramdisk": ramdisk.as_uri(),
            "cmdline": volumeguest.CMDLINE,
            "flavor": Flavor(vcpus=1, memory_mb=volumeguest.MEMORY_MB),
        }
        instance = watched.instance(**(wanted | fields))
        watched.spawn(instance)
        watched.heard.clear()
        return instance

    return spawn

# SPDX-License-Identifier: Apache-2.0
"""A volume is taken from a guest that runs, and releases it, wherever the agent is killed meanwhile."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from compute_agent.failpoints import VARIABLE
from tests.functional.guests.test_volumes import local, on_record, serials
from tests.functional.serving import Served, serving
from tests.rig import volumeguest
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor

MIB = 2**20


@pytest.fixture
def place(hypervisor: Hypervisor) -> pathlib.Path:
    """A directory that volumes may be in."""
    path = hypervisor.scratch / "detached"
    path.mkdir()
    return path


@pytest.fixture
def served(
    request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor, place: pathlib.Path
) -> Iterator[Served]:
    """An agent with real guests, which are given their time to release a volume."""
    with serving(request, broker, hypervisor, sections={"volumes": {"allowed_paths": [f"{place}/"]}}) as one:
        yield one


DETACHING = ("release.before", "release.after", "forget.before", "forget.after", "disconnect.after")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_detach_goes_on_wherever_its_agent_is_killed(served: Served, place: pathlib.Path) -> None:
    """Of a guest that runs, and releases its volume."""
    kernel, ramdisk = volumeguest.files(served.hypervisor.images_path)
    instance = served.spawn(
        image=None,
        kernel=kernel.as_uri(),
        ramdisk=ramdisk.as_uri(),
        cmdline=volumeguest.CMDLINE,
        flavor={"vcpus": 1, "memory_mb": volumeguest.MEMORY_MB},
    )
    disks = volumeguest.Disks(served.guest(instance))
    disks.wait("^up")
    for point in DETACHING:
        volume = local(place, 16 * MIB)
        served.do("attach_volume", instance_uuid=instance, volume=volume)
        name = disks.wait_disk(volume["volume_id"])
        served.agent.stop()
        served.agent.environment[VARIABLE] = f"detach_volume.{point}=kill"
        served.agent.start()
        cast = served.sender.cast("detach_volume", instance_uuid=instance, volume_id=volume["volume_id"])
        served.agent.wait_end(60)
        del served.agent.environment[VARIABLE]
        served.agent.start()
        served.receiver.succeeded(cast, timeout=120)
        assert (serials(served, instance), on_record(served, instance)) == (([], []), []), point
        disks.wait(f"^gone {name}")
    served.do("destroy", instance_uuid=instance)
    assert served.left_of(instance) == []

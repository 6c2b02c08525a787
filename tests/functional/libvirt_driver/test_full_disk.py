# SPDX-License-Identifier: Apache-2.0
"""Storage without room, on real guests: DiskFull, nothing is left, and the guest runs on."""

from __future__ import annotations

import os
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.arguments import Destination
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.virt.libvirt.snapshot import Snapshot
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import local, with_volume
from tests.rig import smalldisk
from tests.rig.bootsector import POLITE

MIB = 2**20


@pytest.fixture
def small(
    watched: Watched, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pathlib.Path]:
    """Instances are on a file system of 8 MiB, and the cached images are not."""
    with smalldisk.mounted(tmp_path / "small", 8, watched.hypervisor.pid) as found:
        monkeypatch.setattr(watched.driver, "_instances_path", str(found))
        yield found


def guest_of(watched: Watched) -> Instance:
    """A guest that runs, of an image with 3 MiB of data."""
    instance = watched.instance(flavor=Flavor(vcpus=1, memory_mb=32))
    assert instance.image is not None
    with pathlib.Path(instance.image.url.removeprefix("file://")).open("ab") as file:
        file.write(os.urandom(3 * MIB))
    watched.spawn(instance)
    watched.heard.clear()
    return instance


def looks(watched: Watched, small: pathlib.Path, instance: Instance) -> tuple[list[str], list[Any]]:
    """The files of an instance, and its disks as libvirt shows them."""
    disks = watched.guest(instance).xml().findall("devices/disk")
    shown = [(disk.find("source").attrib.get("file"), disk.find("mirror")) for disk in disks]  # type: ignore[union-attr]
    return sorted(os.listdir(small / instance.uuid)), shown


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_a_snapshot_whose_copy_finds_no_room_leaves_nothing(
    watched: Watched, small: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    """Also where there was room when it was asked for."""
    CONF.set_override("allowed_destinations", [f"file://{tmp_path}/"], "images")
    try:
        instance = guest_of(watched)
        if not runs:
            watched.driver.power_off(instance)
        before, state = looks(watched, small, instance), watched.state(instance)
        smalldisk.fill(small, leave=MIB)
        destination = Destination(url=(tmp_path / "copy").as_uri())
        for checked in (True, False):
            if not checked:
                monkeypatch.setattr(Snapshot, "_check_room", lambda *_: None)
            with watched.operation("snapshot"), pytest.raises(errors.DiskFull) as caught:
                watched.driver.snapshot(None, instance, destination, lambda **_: None)
            assert caught.value.step == ("check" if checked else "copy")
            assert (looks(watched, small, instance), watched.state(instance)) == (before, state)
        assert not (tmp_path / "copy").exists()
    finally:
        CONF.clear_override("allowed_destinations", "images")


def rescue(watched: Watched, instance: Instance) -> None:
    watched.driver.rescue(None, instance, [], instance.image, None)


def rebuild(watched: Watched, instance: Instance) -> None:
    image = Image(url=watched.hypervisor.images.raw(f"new-{uuid.uuid4().hex}", POLITE).as_uri())
    made = msgspec.structs.replace(instance, image=image)
    watched.driver.rebuild(None, made, image, [], None, None, [], None, None, network_info=[])


@pytest.mark.parametrize("verb", [rescue, rebuild])
def test_a_verb_that_needs_another_disk_leaves_the_guest_as_it_was(
    watched: Watched, small: pathlib.Path, verb: Callable[[Watched, Instance], None]
) -> None:
    instance = guest_of(watched)
    before = looks(watched, small, instance)
    ballast = smalldisk.fill(small)
    with watched.operation(verb.__name__), pytest.raises(errors.DiskFull):
        verb(watched, instance)
    assert (looks(watched, small, instance), watched.state(instance)) == (before, PowerState.RUNNING)
    ballast.unlink()
    with watched.operation(verb.__name__):
        verb(watched, instance)
    assert watched.state(instance) is PowerState.RUNNING


def test_a_volumes_new_layer_that_finds_no_room_leaves_the_volume_as_it_was(
    watched: Watched, small: pathlib.Path
) -> None:
    CONF.set_override("allowed_paths", [f"{small}/"], "volumes")
    try:
        instance = with_volume(watched.instance(), local(small, "volume", MIB))
        watched.spawn(instance)
        before, names = looks(watched, small, instance), sorted(os.listdir(small))
        smalldisk.fill(small)
        create = {"snapshot_id": "s", "type": "qcow2", "new_file": "layer"}
        with watched.operation("volume_snapshot_create"), pytest.raises(errors.DiskFull):
            watched.driver.volume_snapshot_create(None, instance, "volume", create)
        assert (looks(watched, small, instance), watched.state(instance)) == (before, PowerState.RUNNING)
        assert sorted(os.listdir(small)) == sorted([*names, "ballast"])
    finally:
        CONF.clear_override("allowed_paths", "volumes")

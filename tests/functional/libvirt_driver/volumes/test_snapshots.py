# SPDX-License-Identifier: Apache-2.0
"""Snapshots of volumes that are files, taken and merged while the guest writes."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import msgspec
import pytest

from compute_agent.model.instance import Instance
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import disks_of, local, new_id, with_volume
from tests.rig import volumeguest

pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_a_snapshot_of_a_volume_is_taken_and_merged_again(
    watched: Watched, linux: Callable[..., Instance], place: pathlib.Path
) -> None:
    instance, info = linux(), local(place, new_id())
    disks = disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, info, instance, None)
    instance = with_volume(instance, info)
    name = disks.wait_disk(info["serial"])
    disks.wait_writing(name)
    base = place / info["serial"]
    create = {"snapshot_id": "s", "type": "qcow2", "new_file": "layer-1"}
    changed = watched.driver.volume_snapshot_create(None, instance, info["serial"], create)
    assert changed == {"device_path": str(place / "layer-1"), "format": "qcow2"}
    frozen = base.read_bytes()
    disks.wait_writing(name)
    assert base.read_bytes() == frozen
    assert sources(watched, instance) == ([str(place / "layer-1")], [str(place / "layer-1")])
    now = with_volume(
        msgspec.structs.replace(instance, block_device_mapping=[]),
        {**info, "data": {**info["data"], **changed}},
    )
    delete = {"type": "qcow2", "file_to_merge": "layer-1", "merge_target_file": base.name}
    changed = watched.driver.volume_snapshot_delete(None, now, info["serial"], "s", delete)
    assert changed == {"device_path": str(base), "format": "raw"}
    disks.wait_writing(name)
    assert volumeguest.written(base.read_bytes()) > volumeguest.written(frozen)
    assert sources(watched, instance) == ([str(base)], [str(base)])
    assert disks.failures == []


def sources(watched: Watched, instance: Instance) -> tuple[list[str], list[str]]:
    """The files of a guest's disks: in what runs, and in the definition."""
    guest = watched.guest(instance)
    live, kept = (guest.xml(inactive=inactive).findall("devices/disk/source") for inactive in (False, True))
    return [source.attrib["file"] for source in live], [source.attrib["file"] for source in kept]

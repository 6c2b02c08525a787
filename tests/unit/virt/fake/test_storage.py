# SPDX-License-Identifier: Apache-2.0
"""Volumes, disks, device names and the image cache of the fake host."""

import copy
import json
from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from tests.unit.virt.fake.conftest import IMAGE, PLAIN_IMAGE, Host, connection, make_instance


def attach(
    host: Host, instance: Instance, volume: str = "extra", where: str | None = None, **data: Any
) -> None:
    host.driver.attach_volume(None, connection(volume, **data), instance, where)


def sources(host: Host, instance: Instance) -> dict[str, str]:
    return {d.source: target for target, d in host.driver.hypervisor.get(instance.uuid).devices.items()}


def test_attach_and_detach_are_an_exact_pair(host: Host) -> None:
    instance = host.spawn()
    before = copy.deepcopy(host.driver.hypervisor.get(instance.uuid))
    volumes = host.world.volumes[instance.uuid]
    attach(host, instance)
    assert sources(host, instance)["extra"] == "vdc"
    assert "extra" in host.world.volumes[instance.uuid]
    host.driver.detach_volume(None, connection("extra"), instance, "/dev/vdc")
    assert host.driver.hypervisor.get(instance.uuid) == before
    assert host.world.volumes[instance.uuid] == volumes
    assert host.events == []


def test_repeating_either_is_harmless(host: Host) -> None:
    instance = host.spawn()
    attach(host, instance, where="/dev/vdx")
    attach(host, instance, where="/dev/vdx")
    assert sources(host, instance)["extra"] == "vdx"
    host.driver.detach_volume(None, connection("extra"), instance, "/dev/vdx")
    host.driver.detach_volume(None, connection("extra"), instance, "/dev/vdx")
    assert "extra" not in sources(host, instance)


def test_a_taken_place_a_taken_volume_and_an_unreachable_one_are_refused(host: Host) -> None:
    first, second = host.spawn(), host.spawn()
    attach(host, first, where="/dev/vdx")
    with pytest.raises(errors.DeviceBusy):
        attach(host, first, "other", where="/dev/vdx")
    with pytest.raises(errors.DeviceBusy):
        attach(host, first, where="/dev/vdy")
    with pytest.raises(errors.DeviceBusy):
        attach(host, second)
    host.driver.hypervisor.unreachable.add("far")
    with pytest.raises(errors.VolumeUnavailable):
        attach(host, second, "far")
    with pytest.raises(errors.VolumeUnavailable):
        host.driver.attach_volume(None, {}, second, None)
    assert "other" not in host.world.volumes[first.uuid]


def test_a_guest_that_holds_its_device_keeps_it_until_it_is_off(host: Host) -> None:
    instance = host.spawn()
    attach(host, instance)
    host.driver.hypervisor.held.add("extra")
    with pytest.raises(errors.DeviceBusy):
        host.driver.detach_volume(None, connection("extra"), instance, None)
    assert "extra" in sources(host, instance)
    host.driver.power_off(instance)
    host.driver.detach_volume(None, connection("extra"), instance, None)
    assert "extra" not in sources(host, instance)


def test_an_attach_that_was_interrupted_is_finished_by_the_next(host: Host) -> None:
    instance = host.spawn()
    host.driver.hypervisor.effect(
        "connect", instance.uuid, volumes={**host.world.volumes[instance.uuid], "extra": "fake"}
    )
    attach(host, instance)
    assert "extra" in sources(host, instance)


def test_swapping_keeps_the_place(host: Host) -> None:
    instance = host.spawn()
    attach(host, instance, where="/dev/vdx")
    for _ in range(2):
        host.driver.swap_volume(None, connection("extra"), connection("new"), instance, "/dev/vdx", 5)
        assert sources(host, instance)["new"] == "vdx"
        assert host.driver.hypervisor.get(instance.uuid).devices["vdx"].size == 5 * 2**30
        assert "extra" not in host.world.volumes[instance.uuid]


def test_a_guest_sees_that_a_volume_has_grown(host: Host) -> None:
    instance = host.spawn()
    attach(host, instance, where="/dev/vdx")
    host.driver.extend_volume(connection("extra", size_gb=9), instance)
    assert host.driver.hypervisor.get(instance.uuid).devices["vdx"].size == 9 * 2**30
    with pytest.raises(errors.VolumeUnavailable):
        host.driver.extend_volume(connection("nobody's"), instance)


def test_disks_are_told_without_volumes(host: Host) -> None:
    instance = host.spawn(flavor={"root_gb": 3, "swap_mb": 1})
    disks = json.loads(host.driver.get_instance_disk_info(instance))
    assert {disk["path"].rpartition("/")[2] for disk in disks} == {"disk", "disk.swap"}
    root = next(disk for disk in disks if disk["backing_file"])
    assert root["virt_disk_size"] == 3 * 2**30 == root["disk_size"] + root["over_committed_disk_size"]


def test_names_are_given_to_what_has_none(host: Host) -> None:
    lists: list[list[dict[str, Any]]] = [
        [{"device_name": None}, {"device_name": "/dev/vdb"}],
        [{"mount_device": None, "disk_bus": "scsi"}],
    ]
    host.driver.default_device_names_for_instance(make_instance(), "/dev/vda", *lists)
    assert lists[0] == [{"device_name": "/dev/vdc"}, {"device_name": "/dev/vdb"}]
    assert lists[1][0]["mount_device"] == "/dev/sda"


def test_the_next_device_gets_the_next_name(host: Host) -> None:
    instance = host.spawn()
    device = BlockDevice(source_type=SourceType.VOLUME)
    assert host.driver.get_device_name_for_instance(instance, [], device) == "/dev/vdc"
    assert host.driver.default_root_device_name(instance, IMAGE, None) == "/dev/vda"
    ide = Image(url="https://x.example.org/i", properties={"hw_disk_bus": "ide"})
    assert host.driver.default_root_device_name(instance, ide, None) == "/dev/hda"


def test_the_connector_names_the_host(host: Host) -> None:
    assert host.driver.get_volume_connector(None)["host"] == host.name


def test_images_are_cached_once_and_dropped_when_nothing_uses_them(host: Host) -> None:
    assert host.driver.cache_images(None, [IMAGE, PLAIN_IMAGE])["fetched"] == ["image-1", "image-2"]
    assert host.driver.cache_images(None, [IMAGE]) == {"fetched": [], "cached": 1}
    instance = host.spawn()
    assert host.driver.manage_image_cache(None, []) == {"removed": ["image-2"], "kept": 1}
    host.driver.destroy(None, instance, [])
    assert host.driver.manage_image_cache(None, [IMAGE])["kept"] == 1
    assert host.driver.manage_image_cache(None, [])["removed"] == ["image-1"]


def test_an_image_that_can_not_be_reached_is_not_cached(host: Host) -> None:
    host.driver.hypervisor.unreachable.add(IMAGE.url)
    with pytest.raises(errors.ImageUnavailable):
        host.driver.cache_images(None, [IMAGE])
    assert host.world.host.images == {}

# SPDX-License-Identifier: Apache-2.0
"""Volumes that grow, under a guest that writes and under one that is off."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.model.instance import Instance
from compute_agent.virt.images import disks as images
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import (
    GIB,
    MIB,
    Server,
    described,
    disks_of,
    local,
    luks,
    new_id,
    shown,
    with_volume,
)
from tests.rig import volumeguest
from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("make", [NbdServer, IscsiServer])
def test_a_guest_writes_to_a_volume_that_grows_under_it(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], make: type[Server]
) -> None:
    server, volume_id = served(make()), new_id()
    instance, info = linux(), described(server, volume_id)
    disks = disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, info, instance, None)
    name = disks.wait_disk(volume_id, 16 * MIB)
    disks.wait_writing(name)
    assert volumeguest.written(server.contents()) > 0
    watched.outside(server.extend, GIB)
    grown, recorded = described(server, volume_id, size_gb=1), with_volume(instance, info)
    watched.driver.extend_volume(grown, recorded)
    assert disks.wait_disk(volume_id, GIB) == name
    disks.wait_writing(name)
    if make is IscsiServer:  # libvirt 9.0 can't tell QEMU to wait for an NBD server that comes back
        assert disks.failures == []
    watched.driver.detach_volume(None, info, recorded, None)
    disks.wait(f"^gone {name}")
    assert shown(watched, instance) == ([], [])
    assert watched.told(instance) == []


@pytest.mark.long
def test_a_file_grows_on_a_running_guest_and_on_one_that_is_encrypted(
    watched: Watched, linux: Callable[..., Instance], place: pathlib.Path
) -> None:
    instance, plain, secret = linux(), local(place, new_id()), local(place, new_id())
    disks = disks_of(watched, instance)
    luks(place / secret["serial"], "a phrase")
    encryption = {"provider": "luks", "passphrase": "a phrase"}
    watched.driver.attach_volume(None, plain, instance, None)
    watched.driver.attach_volume(None, secret, instance, None, encryption=encryption)
    disks.wait_disk(plain["serial"], 16 * MIB)
    disks.wait_disk(secret["serial"], 16 * MIB)
    for info, extra in ((plain, {}), (secret, {"encryption": encryption})):
        grown = {**info, "data": {**info["data"], "size_gb": 1}, **extra}
        watched.driver.extend_volume(grown, with_volume(instance, info))
        assert (place / info["serial"]).stat().st_size == GIB
    disks.wait_disk(plain["serial"], GIB)
    disks.wait(rf"^disk \w+ serial {secret['serial'][:20]} bytes 10[67]\d{{7}} ro 0")


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_file_grows_while_its_guest_is_off(watched: Watched, place: pathlib.Path, disk_format: str) -> None:
    info = local(place, new_id(), format=disk_format)
    if disk_format == "qcow2":
        command = ["qemu-img", "create", "-q", "-f", "qcow2", info["data"]["device_path"], "16M"]
        subprocess.run(command, check=True, timeout=60)
    instance = with_volume(watched.instance(), info)
    watched.spawn(instance)
    watched.driver.power_off(instance)
    for _ in range(2):
        watched.driver.extend_volume({**info, "data": {**info["data"], "size_gb": 1}}, instance)
        assert images.info(info["data"]["device_path"], disk_format).virtual_size == GIB
    watched.driver.power_on(None, instance, [])
    with watched.guest(instance).domain() as domain:
        assert domain.blockInfo("vdb")[0] == GIB

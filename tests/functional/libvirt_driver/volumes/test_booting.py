# SPDX-License-Identifier: Apache-2.0
"""Guests that start with their volumes, and do not start without them."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.states import PowerState
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import (
    MIB,
    described,
    new_id,
    secrets_of,
    shown,
    with_volume,
)
from tests.rig.bootsector import POLITE
from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer

pytestmark = pytest.mark.timeout(600)


def test_a_guest_boots_from_a_volume_and_has_another(
    watched: Watched, served: Callable[..., Any], place: pathlib.Path
) -> None:
    root, data = served(NbdServer(directory=place)), served(IscsiServer(password="a password of twelve"))
    root.file.write_bytes(POLITE.image(16 * MIB))
    infos = [described(root, new_id()), described(data, new_id())]
    devices = [
        BlockDevice(
            source_type=SourceType.VOLUME,
            volume_id=info["serial"],
            connection_info=info,
            boot_index=0 if number == 0 else None,
            mountpoint=f"/dev/vd{'ab'[number]}",
        )
        for number, info in enumerate(infos)
    ]
    instance = watched.instance(image=None, block_device_mapping=devices)
    watched.spawn(instance)
    watched.guest(instance).wait_console("Hello from a boot sector", 60)
    assert shown(watched, instance)[1] == [info["serial"] for info in infos]
    assert len(secrets_of(watched, instance)) == 1
    watched.driver.reboot(None, instance, [], "HARD")
    assert shown(watched, instance)[0] == [info["serial"] for info in infos]
    watched.driver.destroy(None, instance, [])
    assert watched.left_of(instance) == []
    assert secrets_of(watched, instance) == []


def test_a_spawn_whose_volume_is_not_there_leaves_nothing(
    watched: Watched, served: Callable[..., Any]
) -> None:
    there, gone = served(IscsiServer(password="a password of twelve")), served(NbdServer())
    gone.stop()
    devices = [
        BlockDevice(source_type=SourceType.VOLUME, volume_id=new_id(), connection_info=server.connection_info)
        for server in (there, gone)
    ]
    instance = watched.instance(block_device_mapping=devices)
    with pytest.raises(errors.VolumeUnavailable):
        watched.spawn(instance)
    assert watched.left_of(instance) == []
    assert secrets_of(watched, instance) == []


def test_a_guest_does_not_start_without_its_volumes_server_and_does_with_it(
    watched: Watched, served: Callable[..., Any]
) -> None:
    server = served(NbdServer())
    info = described(server, new_id())
    instance = watched.instance()
    instance = with_volume(instance, info)
    watched.spawn(instance)
    before = shown(watched, instance)
    server.stop()
    with watched.operation("reboot"), pytest.raises(errors.VolumeUnavailable):
        watched.driver.reboot(None, instance, [], "HARD")
    assert shown(watched, instance) == before
    assert watched.state(instance) is PowerState.RUNNING
    watched.driver.power_off(instance)
    with watched.operation("power_on"), pytest.raises(errors.VolumeUnavailable):
        watched.driver.power_on(None, instance, [])
    assert watched.state(instance) is PowerState.SHUTDOWN
    server.start()
    with watched.operation("power_on"):
        watched.driver.power_on(None, instance, [])
    assert (shown(watched, instance), watched.state(instance)) == (before, PowerState.RUNNING)

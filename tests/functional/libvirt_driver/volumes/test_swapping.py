# SPDX-License-Identifier: Apache-2.0
"""A guest goes over to another volume while it writes, or stays on the old one."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import (
    GIB,
    MIB,
    described,
    disks_of,
    local,
    new_id,
    secrets_of,
    shown,
    with_volume,
)
from tests.rig import volumeguest
from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("resize_to", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_guest_goes_over_to_another_volume(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], resize_to: int
) -> None:
    old, new = (
        served(IscsiServer(password="a password of twelve")),
        served(NbdServer(GIB if resize_to else 16 * MIB)),
    )
    infos = [described(old, new_id()), described(new, new_id())]
    instance = linux()
    disks = disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, infos[0], instance, "/dev/vdb")
    instance = with_volume(instance, infos[0], mountpoint="/dev/vdb")
    name = disks.wait_disk(infos[0]["serial"])
    disks.wait_writing(name)
    watched.driver.swap_volume(None, infos[0], infos[1], instance, "/dev/vdb", resize_to)
    disks.wait_writing(name)
    assert 0 < volumeguest.written(old.contents()) < volumeguest.written(new.contents())
    assert disks.failures == []
    assert shown(watched, instance)[1] == [infos[1]["serial"]]
    assert secrets_of(watched, instance) == []
    # From now on it is known as the new volume, although the guest still shows the old one's number.
    after = with_volume(msgspec.structs.replace(instance, block_device_mapping=[]), infos[1])
    usage = watched.driver.get_all_volume_usage(
        None, [{"instance": after, "instance_bdms": after.block_device_mapping}]
    )
    assert [entry["volume"] for entry in usage] == [infos[1]["serial"]]
    if resize_to:  # QEMU copies between volumes of one size only: what is more shows at the next start
        watched.driver.power_off(instance)
        watched.driver.power_on(None, instance, [])
        disks.wait_disk(infos[1]["serial"], GIB)
    watched.driver.detach_volume(None, infos[1], after, None)
    disks.wait(f"^gone {name}")
    assert shown(watched, instance) == ([], [])


def test_a_swap_that_is_cancelled_leaves_the_guest_on_the_old_volume(
    watched: Watched, served: Callable[..., Any], place: pathlib.Path
) -> None:
    instance, old = watched.spawned(), local(place, new_id())
    (place / old["serial"]).write_bytes(os.urandom(16 * MIB))
    new = described(served(NbdServer()), new_id())
    watched.driver.attach_volume(None, old, instance, None)
    before = shown(watched, instance)

    def cancel() -> None:
        watched.wait(lambda: mirrors(watched, instance), "the copy")
        work.cancel()

    CONF.set_override("swap_bandwidth_mb", 1, "volumes")
    try:
        with watched.operation("swap_volume") as work:
            concurrency.spawn(cancel)
            with pytest.raises(errors.Cancelled):
                watched.driver.swap_volume(None, old, new, with_volume(instance, old), None, 0)
    finally:
        CONF.clear_override("swap_bandwidth_mb", "volumes")
    assert shown(watched, instance) == before
    assert not mirrors(watched, instance)


def mirrors(watched: Watched, instance: Instance) -> bool:
    """Whether a disk of the guest is being copied."""
    return watched.guest(instance).xml().find("devices/disk/mirror") is not None

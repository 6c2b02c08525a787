# SPDX-License-Identifier: Apache-2.0
"""Attach and detach on real guests: what runs and the definition agree, whatever the guest does."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import (
    MIB,
    described,
    disks_of,
    local,
    new_id,
    secrets_of,
    shown,
    with_volume,
)
from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer

pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_volumes_come_and_go_on_a_running_and_on_a_stopped_guest(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any], place: pathlib.Path
) -> None:
    instance = linux()
    disks = disks_of(watched, instance)
    disks.wait("^up")
    secret = served(IscsiServer(password="a password of twelve"))
    infos = [
        described(served(NbdServer(unix=True, directory=place)), new_id()),
        described(secret, new_id()),
        local(place, new_id()),
    ]
    ids = [info["serial"] for info in infos]
    for info in infos:
        watched.driver.attach_volume(None, info, instance, None)
        instance = with_volume(instance, info)
    names = [disks.wait_disk(volume_id, 16 * MIB) for volume_id in ids]
    for name in names:
        disks.wait_writing(name)
    assert shown(watched, instance) == (ids, ids)
    assert [secret.count("/iscsi") for secret in secrets_of(watched, instance)] == [1]
    usage = watched.driver.get_all_volume_usage(
        None, [{"instance": instance, "instance_bdms": instance.block_device_mapping}]
    )
    assert {entry["volume"] for entry in usage if entry["wr_bytes"] > 0} == set(ids)
    watched.driver.power_off(instance)
    watched.driver.detach_volume(None, infos[0], instance, None)
    assert shown(watched, instance)[1] == ids[1:]
    watched.driver.attach_volume(None, infos[0], instance, "/dev/vde")
    watched.driver.power_on(None, instance, [])
    disks.wait_disk(ids[0])
    for info in infos:
        watched.driver.detach_volume(None, info, instance, None)
    assert shown(watched, instance) == ([], [])
    assert secrets_of(watched, instance) == []


def test_a_guest_that_does_not_release_a_volume_keeps_it(
    watched: Watched, place: pathlib.Path, quickly: None
) -> None:
    instance = watched.spawned()  # a boot sector hears of no hot-plug
    info = local(place, new_id())
    watched.driver.attach_volume(None, info, instance, None)
    before = shown(watched, instance)
    for _ in range(2):
        with pytest.raises(errors.DeviceBusy):
            watched.driver.detach_volume(None, info, with_volume(instance, info), None)
        assert shown(watched, instance) == before
        assert info["serial"] in before[0] and info["serial"] in before[1]
    watched.driver.power_off(instance)
    watched.driver.detach_volume(None, info, with_volume(instance, info), None)
    assert info["serial"] not in shown(watched, instance)[1]


@pytest.fixture
def quickly() -> Iterator[None]:
    """A guest is asked twice, for a second each."""
    CONF.set_override("detach_attempts", 2, "volumes")
    CONF.set_override("detach_timeout", 1, "volumes")
    yield
    CONF.clear_override("detach_attempts", "volumes")
    CONF.clear_override("detach_timeout", "volumes")


def test_attaching_twice_and_detaching_what_is_not_there(watched: Watched, place: pathlib.Path) -> None:
    instance, info, other = watched.spawned(), local(place, new_id()), local(place, new_id())
    watched.driver.attach_volume(None, info, instance, "/dev/vdc")
    before = shown(watched, instance)
    watched.driver.attach_volume(None, info, with_volume(instance, info), "/dev/vdc")
    assert shown(watched, instance) == before
    with pytest.raises(errors.DeviceBusy):
        watched.driver.attach_volume(None, info, with_volume(instance, info), "/dev/vdd")
    with pytest.raises(errors.DeviceBusy):
        watched.driver.attach_volume(None, other, instance, "/dev/vdc")
    watched.driver.detach_volume(None, other, instance, None)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.extend_volume({**other, "data": {**other["data"], "size_gb": 1}}, instance)
    assert shown(watched, instance) == before


def test_a_connector_tells_who_this_host_is(watched: Watched) -> None:
    told = watched.driver.get_volume_connector(None)
    assert told["host"] == CONF.host_name
    assert told["initiator"].startswith("iqn.")
    assert {"ip", "multipath", "os_type", "platform"} <= told.keys()

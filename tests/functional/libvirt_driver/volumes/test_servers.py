# SPDX-License-Identifier: Apache-2.0
"""Servers of volumes that are away or refuse: nothing is left, and no guest suffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from tests.functional.libvirt_driver.conftest import Watched
from tests.functional.libvirt_driver.volumes.volume import (
    described,
    disks_of,
    new_id,
    secrets_of,
    shown,
    with_volume,
)
from tests.rig.iscsiserver import IscsiServer
from tests.rig.nbdserver import NbdServer

pytestmark = pytest.mark.timeout(600)


def test_a_server_that_is_not_there(watched: Watched, served: Callable[..., Any]) -> None:
    instance, server = watched.spawned(), served(NbdServer())
    info = described(server, new_id())
    server.stop()
    before = shown(watched, instance)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.attach_volume(None, info, instance, None)
    assert shown(watched, instance) == before


def test_a_wrong_password_leaves_nothing(watched: Watched, served: Callable[..., Any]) -> None:
    instance, server = watched.spawned(), served(IscsiServer(password="a password of twelve"))
    info = described(server, new_id(), auth_password="another word, wrong")
    before = shown(watched, instance)
    with pytest.raises(errors.VolumeUnavailable):
        watched.driver.attach_volume(None, info, instance, None)
    assert shown(watched, instance) == before
    assert secrets_of(watched, instance) == []


@pytest.mark.long
def test_a_volume_whose_server_went_away_can_be_detached(
    watched: Watched, linux: Callable[..., Instance], served: Callable[..., Any]
) -> None:
    instance, server = linux(), served(NbdServer())
    info, disks = described(server, new_id()), disks_of(watched, instance)
    disks.wait("^up")
    watched.driver.attach_volume(None, info, instance, None)
    disks.wait_writing(disks.wait_disk(info["serial"]))
    server.stop()
    disks.wait("^failed")
    assert watched.state(instance) is PowerState.RUNNING
    watched.driver.detach_volume(None, info, with_volume(instance, info), None)
    assert shown(watched, instance) == ([], [])

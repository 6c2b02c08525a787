# SPDX-License-Identifier: Apache-2.0
"""Soft deletion of a real guest: it is off and comes back, or is reclaimed, across restarts of the agent."""

from collections.abc import Callable

import pytest

from tests.functional.serving import Served
from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.guest import Guest
from tests.rig.instance import describe
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import RemoteError, Sender

INTERVAL_S = 8


def options(interval_s: int) -> dict[str, dict[str, str]]:
    return {"DEFAULT": {"reclaim_instance_interval": str(interval_s)}}


def test_a_soft_deleted_guest_is_reclaimed_after_a_restart_of_the_agent(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    images: Images,
    guest: Callable[[str], Guest],
) -> None:
    made = agent(hypervisor=True, start=False)
    made.configure(options(INTERVAL_S))
    made.start()
    to = sender(made)
    deleted, other = (describe(images.raw("reclaimed", POLITE)) for _ in range(2))
    for instance in (deleted, other):
        receiver.succeeded(to.cast("spawn", instance=instance))
    uuid = deleted["uuid"]
    receiver.succeeded(to.cast("soft_delete", instance_uuid=uuid))
    assert guest(uuid).state == "shutoff"
    made.stop()
    made.start()
    removed = receiver.wait_for(type="instance.removed", instance_uuid=uuid, timeout=90)
    reclaim = to.call("get_operation", operation_id=removed["operation_id"])
    assert (reclaim["verb"], reclaim["origin"]) == ("destroy", "agent")
    wait_until(lambda: not guest(uuid).exists, 30, "no domain")
    assert not (made.instances_path / uuid).exists()
    assert guest(other["uuid"]).state == "running"
    assert receiver.failed(to.cast("restore", instance_uuid=uuid))["data"]["error"]["code"] == (
        "InstanceNotFound"
    )
    with pytest.raises(RemoteError):
        to.call("get_instance", instance_uuid=uuid)


def test_a_soft_deleted_guest_comes_back_with_its_disk_and_can_be_destroyed(alone: Served) -> None:
    instance = alone.describe()
    uuid = instance["uuid"]
    alone.sender.cast("spawn", instance=instance)
    alone.sender.cast("soft_delete", instance_uuid=uuid)
    deleted = alone.do("soft_delete", instance_uuid=uuid)
    assert deleted["data"]["result"] == {"already": True}
    assert (alone.guest(uuid).state, alone.record(uuid)["state"]) == (
        "shutoff",
        "soft_deleted",
    )
    alone.do("restore", instance_uuid=uuid)
    alone.guest(uuid).wait_console("Hello", timeout=60)
    alone.do("soft_delete", instance_uuid=uuid)
    alone.do("destroy", instance_uuid=uuid)
    assert not alone.guest(uuid).exists
    assert not (alone.agent.instances_path / uuid).exists()

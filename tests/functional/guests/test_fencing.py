# SPDX-License-Identifier: Apache-2.0
"""Disks of another host, or of a later placement: the old host neither starts nor removes them."""

import json
import pathlib
from collections.abc import Callable

import pytest

from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.guest import Guest
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender


@pytest.mark.parametrize(
    ("taken_over", "code"),
    [
        ({"host": "another-host", "generation": 4}, "WrongHost"),
        pytest.param({"generation": 5}, "StaleGeneration", marks=pytest.mark.long),
    ],
    ids=["by another host", "by a later placement"],
)
def test_a_guest_that_was_placed_elsewhere_never_starts_and_its_disks_stay(
    taken_over: dict[str, object],
    code: str,
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    guest: Callable[[str], Guest],
) -> None:
    to, instance = to_qemu_agent, describe(images.qcow2("fenced", POLITE), generation=4)
    uuid = instance["uuid"]
    receiver.succeeded(to.cast("spawn", instance=instance), timeout=60)
    directory = qemu_agent.instances_path / uuid
    take_over(directory / "owner", taken_over)
    files = sorted(directory.iterdir())
    pid = guest(uuid).qemu_pid
    reboot = receiver.failed(to.cast("reboot", instance_uuid=uuid, reboot_type="HARD"))
    assert reboot["data"]["error"]["code"] == code
    assert guest(uuid).qemu_pid == pid, "it was not stopped: it could not have been started again"
    receiver.succeeded(to.cast("power_off", instance_uuid=uuid, timeout=0))
    assert receiver.failed(to.cast("power_on", instance_uuid=uuid))["data"]["error"]["code"] == code
    assert guest(uuid).state == "shutoff"
    destroyed = receiver.succeeded(to.cast("destroy", instance_uuid=uuid))
    assert destroyed["data"]["result"]["files_kept"]
    assert guest(uuid).state == "absent"
    assert sorted(directory.iterdir()) == files
    receiver.failed(to.cast("spawn", instance=instance | {"generation": 9}))
    assert sorted(directory.iterdir()) == files


def test_another_hosts_directory_is_no_orphan_and_is_not_removed_as_one(
    receiver: Receiver, qemu_agent: Agent, to_qemu_agent: Sender, images: Images
) -> None:
    instance = describe(images.qcow2("fenced", POLITE))
    receiver.succeeded(to_qemu_agent.cast("spawn", instance=instance), timeout=60)
    directory = qemu_agent.instances_path / instance["uuid"]
    receiver.succeeded(to_qemu_agent.cast("destroy", instance_uuid=instance["uuid"], destroy_disks=False))
    qemu_agent.stop()
    for path in qemu_agent.state_path.glob("*"):
        path.unlink()
    take_over(directory / "owner", {"host": "another-host"})
    qemu_agent.start()
    orphan = f"directory:{instance['uuid']}"
    assert orphan not in {one["id"] for one in to_qemu_agent.call("list_orphans")["orphans"]}
    receiver.succeeded(to_qemu_agent.cast("destroy_orphan", orphan_id=orphan))
    assert directory.is_dir()
    take_over(directory / "owner", {"host": qemu_agent.host})
    receiver.succeeded(to_qemu_agent.cast("destroy_orphan", orphan_id=orphan))
    assert not directory.exists()


def take_over(note: pathlib.Path, changes: dict[str, object]) -> None:
    """Change the note of whose the files are, as another host does that shares the storage."""
    note.write_text(json.dumps(json.loads(note.read_text()) | changes))

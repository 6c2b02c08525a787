# SPDX-License-Identifier: Apache-2.0
"""Disks of another host, or of a later placement: the old host neither starts nor removes them."""

import json
import pathlib

import pytest

from tests.functional.serving import Served


@pytest.mark.parametrize(
    ("taken_over", "code"),
    [
        ({"host": "another-host", "generation": 4}, "WrongHost"),
        pytest.param({"generation": 5}, "StaleGeneration", marks=pytest.mark.long),
    ],
    ids=["by another host", "by a later placement"],
)
def test_a_guest_that_was_placed_elsewhere_never_starts_and_its_disks_stay(
    taken_over: dict[str, object], code: str, alone: Served
) -> None:
    instance = alone.describe(generation=4)
    uuid = instance["uuid"]
    alone.do("spawn", instance=instance)
    directory = alone.agent.instances_path / uuid
    take_over(directory / "owner", taken_over)
    files = sorted(directory.iterdir())
    pid = alone.guest(uuid).qemu_pid
    assert alone.fail("reboot", instance_uuid=uuid, reboot_type="HARD")["code"] == code
    assert alone.guest(uuid).qemu_pid == pid, "it was not stopped: it could not have been started again"
    alone.do("power_off", instance_uuid=uuid, timeout=0)
    assert alone.fail("power_on", instance_uuid=uuid)["code"] == code
    assert alone.guest(uuid).state == "shutoff"
    destroyed = alone.do("destroy", instance_uuid=uuid)
    assert destroyed["data"]["result"]["files_kept"]
    assert alone.guest(uuid).state == "absent"
    assert sorted(directory.iterdir()) == files
    alone.fail("spawn", instance=instance | {"generation": 9})
    assert sorted(directory.iterdir()) == files


def test_another_hosts_directory_is_no_orphan_and_is_not_removed_as_one(alone: Served) -> None:
    instance = alone.describe()
    alone.do("spawn", instance=instance)
    directory = alone.agent.instances_path / instance["uuid"]
    alone.do("destroy", instance_uuid=instance["uuid"], destroy_disks=False)
    alone.agent.stop()
    for path in alone.agent.state_path.glob("*"):
        path.unlink()
    take_over(directory / "owner", {"host": "another-host"})
    alone.agent.start()
    orphan = f"directory:{instance['uuid']}"
    assert orphan not in {one["id"] for one in alone.sender.call("list_orphans")["orphans"]}
    alone.do("destroy_orphan", orphan_id=orphan)
    assert directory.is_dir()
    take_over(directory / "owner", {"host": alone.agent.host})
    alone.do("destroy_orphan", orphan_id=orphan)
    assert not directory.exists()


def take_over(note: pathlib.Path, changes: dict[str, object]) -> None:
    """Change the note of whose the files are, as another host does that shares the storage."""
    note.write_text(json.dumps(json.loads(note.read_text()) | changes))

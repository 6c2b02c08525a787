# SPDX-License-Identifier: Apache-2.0
"""The disks of a guest, through a daemon: told, kept over its restarts, and their keys shown to nobody."""

import json
from xml.etree import ElementTree

from tests.functional.serving import Served
from tests.rig.bootsector import POLITE
from tests.rig.instance import describe
from tests.rig.process import command_line

PASSPHRASE = "a passphrase of the scheduler's"


def test_encrypted_disks_outlive_a_killed_agent_and_their_passphrase_is_shown_to_nobody(
    alone: Served,
) -> None:
    root = {"source_type": "image", "boot_index": 0, "encryption": {"passphrase": PASSPHRASE}}
    flavor = {"vcpus": 1, "memory_mb": 32, "root_gb": 0, "swap_mb": 4}
    image = alone.hypervisor.images.raw("encrypted", POLITE)
    instance = describe(image) | {"flavor": flavor, "block_device_mapping": [root]}
    uuid = instance["uuid"]
    alone.receiver.succeeded(alone.sender.cast("spawn", instance=instance), timeout=120)
    alone.guest(uuid).wait_console("Hello", timeout=60)
    alone.agent.restart(kill=True)
    operation = alone.sender.cast("reboot", instance_uuid=uuid, reboot_type="HARD")
    alone.receiver.succeeded(operation, timeout=120)
    told = alone.sender.call("get_instance_disk_info", instance_uuid=uuid)
    disks = told["disks"] if isinstance(told["disks"], list) else json.loads(told["disks"])
    directory = alone.agent.instances_path / uuid
    assert [disk["path"] for disk in disks] == [str(directory / "disk"), str(directory / "disk.swap")]
    pid = alone.guest(uuid).qemu_pid
    assert pid is not None
    shown = {
        "log": alone.agent.log_text(),
        "record": json.dumps(alone.record(uuid)),
        "events": json.dumps(alone.sender.call("get_events", limit=1000)),
        "plan": json.dumps(alone.sender.call("plan", verb="spawn", arguments={"instance": instance})),
        "domain": ElementTree.tostring(alone.guest(uuid).xml(), encoding="unicode"),
        "command line": "\0".join(command_line(pid)),
    }
    assert [where for where, text in shown.items() if PASSPHRASE in text] == []
    keys = alone.agent.state_path / "disk_keys" / uuid
    assert [path.name for path in keys.iterdir()] == ["disk"]
    alone.do("destroy", instance_uuid=uuid)
    assert not keys.exists()

# SPDX-License-Identifier: Apache-2.0
"""The disks of a guest, through a daemon: told, kept over its restarts, and their keys shown to nobody."""

import json
from collections.abc import Callable
from xml.etree import ElementTree

from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.guest import Guest
from tests.rig.instance import describe
from tests.rig.process import command_line
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

PASSPHRASE = "a passphrase of the scheduler's"


def test_encrypted_disks_outlive_a_killed_agent_and_their_passphrase_is_shown_to_nobody(
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    guest: Callable[[str], Guest],
) -> None:
    root = {"source_type": "image", "boot_index": 0, "encryption": {"passphrase": PASSPHRASE}}
    flavor = {"vcpus": 1, "memory_mb": 32, "root_gb": 0, "swap_mb": 4}
    instance = describe(images.raw("encrypted", POLITE)) | {"flavor": flavor, "block_device_mapping": [root]}
    uuid = instance["uuid"]
    receiver.succeeded(to_qemu_agent.cast("spawn", instance=instance), timeout=120)
    guest(uuid).wait_console("Hello", timeout=60)
    qemu_agent.restart(kill=True)
    operation = to_qemu_agent.cast("reboot", instance_uuid=uuid, reboot_type="HARD")
    receiver.succeeded(operation, timeout=120)
    told = to_qemu_agent.call("get_instance_disk_info", instance_uuid=uuid)
    disks = told["disks"] if isinstance(told["disks"], list) else json.loads(told["disks"])
    directory = qemu_agent.instances_path / uuid
    assert [disk["path"] for disk in disks] == [str(directory / "disk"), str(directory / "disk.swap")]
    pid = guest(uuid).qemu_pid
    assert pid is not None
    shown = {
        "log": qemu_agent.log_text(),
        "record": json.dumps(to_qemu_agent.call("get_instance", instance_uuid=uuid)),
        "events": json.dumps(to_qemu_agent.call("get_events", limit=1000)),
        "plan": json.dumps(to_qemu_agent.call("plan", verb="spawn", arguments={"instance": instance})),
        "domain": ElementTree.tostring(guest(uuid).xml(), encoding="unicode"),
        "command line": "\0".join(command_line(pid)),
    }
    assert [where for where, text in shown.items() if PASSPHRASE in text] == []
    keys = qemu_agent.state_path / "disk_keys" / uuid
    assert [path.name for path in keys.iterdir()] == ["disk"]
    receiver.succeeded(to_qemu_agent.cast("destroy", instance_uuid=uuid), timeout=60)
    assert not keys.exists()

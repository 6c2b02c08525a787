# SPDX-License-Identifier: Apache-2.0
"""A config drive over AMQP: a small guest reads it through its BIOS and says on its console what is on it."""

from __future__ import annotations

import base64
import json
import pathlib
import uuid as uuids
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest

from compute_agent.virt.configdrive import drive
from tests.functional.serving import Served, interface, serving
from tests.rig.bootsector import READER
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.process import command_line, read_text, wait_until

END = "END OF DRIVE"
PASSWORD = "s3cret-of-the-admin"
FILE = "#content of a file\n"
USER_DATA = "#cloud-config\n# for the guest alone\n"
WAIT_S = 60.0


@pytest.fixture(scope="module", params=["iso9660", "vfat"])
def served(request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor) -> Iterator[Served]:
    """An agent with real guests that read their drives."""
    sections = {"DEFAULT": {"config_drive_format": request.param}}
    with serving(request, broker, hypervisor, sections=sections) as one:
        one.image = hypervisor.images.qcow2(f"reader-{uuids.uuid4().hex[:8]}", READER)
        yield one


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def describe(served: Served, **properties: str) -> dict[str, Any]:
    """An instance whose BIOS sees all its disks: of virtio ones it passes those that are not booted from."""
    instance = served.describe()
    instance["image"]["properties"] = {"hw_disk_bus": "sata", **properties}
    return instance


def wanted(served: Served, **fields: Any) -> dict[str, Any]:
    """An instance that has something to say."""
    said = {
        "hostname": "reader-1",
        "display_name": "web »1«",
        "metadata": {"role": "reader"},
        "ssh_keys": ["ssh-ed25519 AAAA me@here"],
        "user_data": b64(USER_DATA),
        "vendor_data": {"cloud-init": "#cloud-config\n"},
        "config_drive": True,
    }
    return describe(served) | said | fields


def heard(served: Served, uuid: str, times: int = 1) -> str:
    """What the guest said in its last boot, once it has said so much."""
    guest = served.guest(uuid)
    guest.wait_console(f"{END}\n", timeout=WAIT_S)
    wait_until(lambda: guest.console().count(END) >= times, WAIT_S, f"{times} boots", guest.console)
    return guest.console().split(END)[times - 1]


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON files that a guest has printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def meta_data(text: str) -> dict[str, Any]:
    return next(found for found in objects(text) if "launch_index" in found)


def drive_of(served: Served, uuid: str) -> pathlib.Path:
    return served.agent.instances_path / uuid / "disk.config"


def test_a_guest_reads_who_it_is_and_what_it_was_given(served: Served, bridge: str) -> None:
    vif = interface(bridge, fixed_ips=["192.0.2.5/24"], mtu=1400)
    instance = wanted(served, network_info=[vif])
    files = [["/etc/motd", b64(FILE)]]
    served.do("spawn", instance=instance, admin_password=PASSWORD, injected_files=files)
    text = heard(served, instance["uuid"])
    said = meta_data(text)
    assert (said["uuid"], said["hostname"], said["name"]) == (instance["uuid"], "reader-1", "web »1«")
    assert (said["admin_pass"], said["meta"]) == (PASSWORD, {"role": "reader"})
    assert said["public_keys"] == {"key-0": "ssh-ed25519 AAAA me@here"}
    assert said["files"] == [{"content_path": "/content/0000", "path": "/etc/motd"}]
    assert FILE.strip() in text
    assert USER_DATA.strip() in text.replace("\r", "")
    (link,) = next(found for found in objects(text) if "links" in found)["links"]
    assert (link["ethernet_mac_address"], link["mtu"]) == (vif["address"], 1400)
    assert {"instance-id": instance["uuid"], "local-hostname": "reader-1"}.items() <= next(
        found for found in objects(text) if "instance-id" in found
    ).items()


def test_the_drive_lives_as_long_as_its_guest(served: Served) -> None:
    """Neither power cycle nor the agent's restart nor a HARD reboot takes from it what is on no record."""
    instance = wanted(served)
    uuid = instance["uuid"]
    served.do("spawn", instance=instance, admin_password=PASSWORD)
    first = heard(served, uuid)
    before = drive_of(served, uuid).read_bytes()
    served.do("power_off", instance_uuid=uuid, timeout=0)
    served.do("power_on", instance_uuid=uuid)
    heard(served, uuid, 2)
    served.agent.restart()
    served.do("reboot", instance_uuid=uuid, reboot_type="HARD")
    last = heard(served, uuid, 3)
    assert objects(last) == objects(first)
    assert meta_data(last)["admin_pass"] == PASSWORD
    assert drive_of(served, uuid).read_bytes() == before
    served.do("destroy", instance_uuid=uuid)
    assert served.left_of(uuid) == []


def test_the_drive_is_the_last_disk_and_can_not_be_written(served: Served) -> None:
    instance = wanted(served, flavor={"vcpus": 1, "memory_mb": 32, "ephemeral_gb": 1, "swap_mb": 16})
    instance["image"]["properties"] = {}
    served.do("spawn", instance=instance)
    disks = served.guest(instance["uuid"]).xml().findall("devices/disk")
    assert [disk.find("readonly") is not None for disk in disks] == [False, False, False, True]
    source = disks[-1].find("source")
    assert source is not None and source.get("file") == str(drive_of(served, instance["uuid"]))


def test_secrets_are_in_the_drive_alone(served: Served) -> None:
    instance = wanted(served)
    uuid = instance["uuid"]
    served.do("spawn", instance=instance, admin_password=PASSWORD, injected_files=[["/etc/s", b64(FILE)]])
    found = drive_of(served, uuid)
    assert found.stat().st_mode & 0o777 == 0o600
    assert PASSWORD in drive.read(found.read_bytes())["openstack/latest/meta_data.json"].decode()
    served.sender.call("plan", verb="spawn", arguments={"instance": instance, "admin_password": PASSWORD})
    pid = served.guest(uuid).qemu_pid
    assert pid is not None
    shown = {
        "log": "\n".join(map(read_text, _logs(served))),
        "command line": "\0".join(command_line(pid)),
        "record": json.dumps(served.record(uuid)),
        "domain": ElementTree.tostring(served.guest(uuid).xml(), encoding="unicode"),
    }
    secrets = (PASSWORD, b64(PASSWORD), FILE.strip(), b64(FILE), USER_DATA.strip(), b64(USER_DATA))
    assert [(where, secret) for where, text in shown.items() for secret in secrets if secret in text] == []


def _logs(served: Served) -> list[pathlib.Path]:
    """The agent's own logs, not its guests' consoles."""
    below = served.agent.instances_path
    found = [path for path in served.agent.scratch.rglob("*.log") if below not in path.parents]
    assert found
    return found


def test_a_guest_that_nothing_is_told_has_no_drive(served: Served) -> None:
    instance = describe(served)
    uuid = instance["uuid"]
    served.do("spawn", instance=instance)
    assert heard(served, uuid).count("{") == 0
    assert not drive_of(served, uuid).exists()
    assert len(served.guest(uuid).disks) == 1


def test_an_image_may_demand_a_drive(served: Served) -> None:
    instance = describe(served, img_config_drive="mandatory")
    served.do("spawn", instance=instance)
    assert meta_data(heard(served, instance["uuid"]))["uuid"] == instance["uuid"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"injected_files": [["/etc/../x", ""]]}, "InvalidArguments"),
        ({"injected_files": [["/etc/x", ""], ["//etc/x", ""]]}, "InvalidArguments"),
        ({"injected_files": [["/etc/x", "AAA"]]}, "InvalidArguments"),
        ({"injected_files": [[f"/etc/{n}", ""] for n in range(129)]}, "InvalidArguments"),
        ({"injected_files": [["/a", "AAAA" * 180_000], ["/b", "AAAA" * 180_000]]}, "MessageTooLarge"),
    ],
)
def test_what_no_drive_can_be_made_of_is_refused_and_leaves_nothing(
    served: Served, arguments: dict[str, Any], code: str
) -> None:
    instance = wanted(served)
    assert served.fail("spawn", instance=instance, **arguments)["code"] == code
    assert served.left_of(instance["uuid"]) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"user_data": "AAA"},
        {"ssh_keys": ["ssh-rsa A\nssh-rsa B"]},
        {"network_info": [interface("br0", fixed_ips=["999.1.1.1"])]},
    ],
)
def test_an_instance_that_no_drive_can_describe_is_refused(served: Served, fields: dict[str, Any]) -> None:
    instance = wanted(served, **fields)
    assert served.fail("spawn", instance=instance)["code"] == "InvalidArguments"
    assert served.left_of(instance["uuid"]) == []


def test_a_plan_tells_of_the_drive_and_makes_none(served: Served) -> None:
    instance = served.describe()
    arguments = {"instance": instance, "admin_password": PASSWORD}
    planned = served.sender.call("plan", verb="spawn", arguments=arguments)
    steps = {step["step"]: step for step in planned["steps"]}
    assert list(steps)[-3:] == ["config_drive", "define", "start"]
    assert "disk.config" in steps["define"]["domain_xml"]
    assert PASSWORD not in json.dumps(planned)
    assert served.left_of(instance["uuid"]) == []

# SPDX-License-Identifier: Apache-2.0
"""A real Debian with cloud-init takes its name, key, files and user data from the config drive.

The image is built once by `tests/rig/debianguest.py`; a boot takes about a minute under plain emulation.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.serving import Served, bridged, interface, serving
from tests.rig import debianguest
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor

pytestmark = pytest.mark.long

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBrqpLz4wYtT5SZ7MYJkYyYpXvyAV1W0y6OqzjQYPbXt me@here"
BOOT_S = 1200.0
REPORT = """#!/bin/sh
{
  echo "REPORT hostname=$(hostname)"
  echo "REPORT key=$(cat /home/debian/.ssh/authorized_keys)"
  echo "REPORT file=$(cat /etc/injected)"
  echo "REPORT source=$(cloud-id)"
  echo "REPORT instance=$(cat /var/lib/cloud/data/instance-id)"
  echo "REPORT address=$(ip -4 -o addr show scope global | tr -s ' ' | cut -d ' ' -f 4 | tr '\\n' ' ')"
  echo "REPORT done=yes"
} > /dev/ttyS0
"""


@pytest.fixture(scope="module")
def debian(hypervisor: Hypervisor) -> debianguest.Debian:
    """The files of the guest, where the agent takes images from."""
    return debianguest.find().placed(hypervisor.images_path)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def describe(debian: debianguest.Debian, served: Served, bridge: str, **properties: str) -> dict[str, Any]:
    """A Debian that is told all it can be told."""
    described = served.describe(
        hostname="from-the-drive",
        flavor={"vcpus": 1, "memory_mb": 512, "root_gb": 2},
        kernel=debian.kernel.as_uri(),
        ramdisk=debian.ramdisk.as_uri(),
        cmdline=debianguest.CMDLINE,
        config_drive=True,
        ssh_keys=[KEY],
        user_data=b64(REPORT),
        network_info=[interface(bridge, fixed_ips=["192.0.2.17/24"])],
    )
    image = {"url": debian.image.as_uri(), "disk_format": "qcow2", "properties": properties}
    return described | {"image": image}


def reported(served: Served, instance: str) -> dict[str, str]:
    """What the guest says of itself on its console when its first boot is done."""
    text = served.guest(instance).wait_console("REPORT done=yes", timeout=BOOT_S)
    return dict(re.findall(r"REPORT (\w+)=([^\r\n]*)", text))


@pytest.fixture(scope="module", params=["iso9660", "vfat"])
def served(request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor) -> Iterator[Served]:
    sections = {"DEFAULT": {"config_drive_format": request.param}}
    with serving(request, broker, hypervisor, sections=sections) as one:
        yield one


@pytest.mark.timeout(2400)
def test_a_debian_takes_all_from_an_openstack_drive(debian: debianguest.Debian, served: Served) -> None:
    with bridged() as bridge:
        instance = describe(debian, served, bridge, hw_cdrom_bus="scsi")
        served.do("spawn", instance=instance, injected_files=[["/etc/injected", b64("for the guest\n")]])
        found = reported(served, instance["uuid"])
        served.do("destroy", instance_uuid=instance["uuid"])
    assert found == {
        "hostname": "from-the-drive",
        "key": KEY,
        "file": "for the guest",
        "source": "configdrive",
        "instance": instance["uuid"],
        "address": "192.0.2.17/24 ",
        "done": "yes",
    }


@pytest.mark.timeout(2400)
def test_a_debian_takes_all_but_files_from_a_nocloud_drive(
    debian: debianguest.Debian, served: Served
) -> None:
    with bridged() as bridge:
        image = {"hw_cdrom_bus": "scsi", "img_config_drive_label": "cidata"}
        instance = describe(debian, served, bridge, **image)
        served.do("spawn", instance=instance)
        found = reported(served, instance["uuid"])
        served.do("destroy", instance_uuid=instance["uuid"])
    assert found == {
        "hostname": "from-the-drive",
        "key": KEY,
        "file": "",
        "source": "nocloud",
        "instance": instance["uuid"],
        "address": "192.0.2.17/24 ",
        "done": "yes",
    }

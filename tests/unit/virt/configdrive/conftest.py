# SPDX-License-Identifier: Apache-2.0
"""Instances with all that a config drive may say."""

import base64
from typing import Any

from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif
from compute_agent.virt.configdrive import Given

UUID = "0b6f3a52-5c0f-4d0e-9a52-8f4c3f1f2a10"
USER_DATA = b"#cloud-config\nhostname: caf\xc3\xa9\n"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def plain(**fields: Any) -> Instance:
    """Return an instance that asks for nothing."""
    return Instance(**({"uuid": UUID, "flavor": Flavor(vcpus=1, memory_mb=64)} | fields))


def full() -> Given:
    """Return what has something in every place of a drive."""
    instance = plain(
        name="instance-1",
        display_name="web »1«",
        hostname="web-1",
        project_id="project-1",
        image=Image(url="file:///images/one"),
        metadata={"role": "wéb"},
        user_data=b64(USER_DATA),
        vendor_data={"cloud-init": "#cloud-config\n{}\n", "more": [1, None]},
        ssh_keys=["ssh-ed25519 AAAAC3Nza me@here", "ssh-rsa AAAAB3Nza"],
        network_info=[
            Vif(
                id="port-1",
                address="52:54:00:AA:00:01",
                mtu=1400,
                fixed_ips=["192.0.2.5/24", "2001:db8::5/64"],
                tag="front",
            ),
            Vif(id="port-2", address="52:54:00:aa:00:02", fixed_ips=["198.51.100.7", "2001:db8:1::7"]),
            Vif(id="port-3", address="52:54:00:aa:00:03"),
        ],
        block_device_mapping=[BlockDevice(source_type=SourceType.VOLUME, volume_id="vol-1", tag="data")],
    )
    files = [("/etc/motd", b64(b"hello\n")), ("/opt/ünï", b64(bytes(range(256))))]
    return Given(instance=instance, admin_password="s3cret »pass«", injected_files=files)

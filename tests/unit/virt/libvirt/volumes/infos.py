# SPDX-License-Identifier: Apache-2.0
"""Volumes as storage services describe them, one of each kind, for the golden files."""

from __future__ import annotations

from typing import Any

from compute_agent.virt.libvirt import design_devices
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.properties import Properties
from compute_agent.virt.libvirt.volumes import connection
from tests.unit.virt.libvirt.config.scenarios import QEMU_HOST, UUID, instance

VOLUME_ID = "0f5b3a52-7a5e-4c0e-9a43-2d0e1c9b8a77"
PATHS = InstancePaths("/var/lib/compute-agent/instances", UUID)
ALLOWED = "/var/lib/volumes/"
PASSWORD = "the-password-of-chap"
KEY = "QVFCMzQ1Njc4OWFiY2RlZg=="
PHRASE = "the phrase of luks"


def info(kind: str, **data: Any) -> dict[str, Any]:
    """A `connection_info`."""
    return {"driver_volume_type": kind, "serial": VOLUME_ID, "data": data}


ISCSI = info(
    "iscsi",
    target_portal="10.0.0.9:3260",
    target_iqn="iqn.2010-10.org.openstack:volume-1",
    target_lun=1,
    target_discovered=False,
    auth_method="CHAP",
    auth_username="user-1",
    auth_password=PASSWORD,
)
RBD = info(
    "rbd",
    name="volumes/volume-1",
    hosts=["10.0.0.1", "10.0.0.2", "fd00::3"],
    ports=["6789", "6789", "6790"],
    auth_enabled=True,
    auth_username="cinder",
    secret_type="ceph",
    keyring=f"[client.cinder]\n\tkey = {KEY}\n",
)
INFOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "local-file": (info("local", device_path="/var/lib/volumes/volume-1"), {}),
    "local-qcow2": (info("local", device_path="/var/lib/volumes/volume-1.q", format="qcow2"), {}),
    "local-device": (info("local", device_path="/dev/vg0/volume-1", discard=True), {"disk_bus": "scsi"}),
    "nbd": (info("nbd", host="storage.example.org", port=10809, export="volume-1"), {}),
    "nbd-socket": (info("nbd", socket="/var/lib/volumes/nbd.sock"), {}),
    "nbd-tls": (info("nbd", host="fd00::7", port="10810", export="v", tls=True), {}),
    "iscsi": (ISCSI, {"mountpoint": "/dev/vdc"}),
    "iscsi-luks": (ISCSI, {"encryption": {"provider": "luks", "passphrase": PHRASE}}),
    "iscsi-shared": (
        ISCSI | {"multiattach": True, "data": ISCSI["data"] | {"access_mode": "ro"}},
        {"device_type": "disk"},
    ),
    "iscsi-limited": (
        ISCSI | {"data": ISCSI["data"] | {"qos_specs": {"read_iops_sec": "500", "total_bytes_sec": 1048576}}},
        {},
    ),
    "rbd": (RBD, {}),
    "rbd-known-secret": (
        info(
            "rbd",
            name="volumes/volume-1",
            hosts=["mon.example.org"],
            ports=[6789],
            auth_enabled=True,
            auth_username="cinder",
            secret_uuid="11111111-2222-3333-4444-555555555555",
        ),
        {},
    ),
    "nfs": (info("nfs", export="10.0.0.5:/export/volumes", name="volume-1", options="-o vers=4.2"), {}),
}


def xml(name: str) -> str:
    """The disk of a kind of volume, as it stands in a domain."""
    given, beside = INFOS[name]
    volume = connection.read(given, PATHS, **beside)
    return design_devices.one(
        volume.disk, Properties.of(instance()), QEMU_HOST, "pc-q35-7.2", {"vda"}
    ).to_xml()

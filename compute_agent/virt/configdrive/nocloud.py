# SPDX-License-Identifier: Apache-2.0
"""NoCloud's files: ``meta-data``, ``user-data``, ``network-config`` and ``vendor-data`` in the drive's root.

cloud-init reads them as YAML, of which JSON is a part. It wants ``user-data`` to be there, if only empty.
NoCloud has no place for an administrator's password and for injected files: a drive with another label has.
"""

from compute_agent.virt.configdrive import network
from compute_agent.virt.configdrive.given import Given
from compute_agent.virt.configdrive.openstack import as_json


def files(given: Given, user_data: bytes | None) -> dict[str, bytes]:
    """Return NoCloud's files by their names."""
    instance = given.instance
    said = {"instance-id": instance.uuid, "local-hostname": given.hostname}
    keys = {"public-keys": instance.ssh_keys} if instance.ssh_keys else {}
    made = {"meta-data": as_json(said | keys), "user-data": user_data or b""}
    if given.network:
        made["network-config"] = as_json(network.network_config(given.network))
    vendor_data = instance.vendor_data.get("cloud-init")
    if isinstance(vendor_data, str):
        made["vendor-data"] = vendor_data.encode(errors="replace")
    return made

# SPDX-License-Identifier: Apache-2.0
"""``iscsi``: through QEMU's own initiator; the host's kernel and iscsid have no part in it.

``data``: ``target_portal``, ``target_iqn``, ``target_lun``; ``auth_method`` (CHAP), ``auth_username``,
``auth_password``. Of several portals the first is used: QEMU has one path. Whoever needs multipath installs
os-brick and sets ``[volumes] iscsi_use_multipath``.
"""

from collections.abc import Mapping
from typing import Any

from compute_agent.virt.libvirt.volumes import checks, initiator
from compute_agent.virt.libvirt.volumes.place import Login, NetworkSource, Place, Server

PORT = 3260
_HIGHEST_LUN = 16383


def read(data: Mapping[str, Any]) -> Place:
    """Return where the volume is."""
    portal = _one(data, "target_portal", "target_portals")
    host, port = checks.portal(_text(portal, "target_portal"), PORT, "target_portal")
    iqn = checks.iqn(_one(data, "target_iqn", "target_iqns"), "target_iqn")
    lun = checks.number(_one(data, "target_lun", "target_luns"), "target_lun", _HIGHEST_LUN)
    network = NetworkSource(
        protocol="iscsi",
        name=f"{iqn}/{lun}",
        servers=(Server(host=host, port=port),),
        initiator=initiator.name(),
    )
    return Place(network=network, login=_login(data))


def _one(data: Mapping[str, Any], one: str, many: str) -> object:
    found = data.get(one)
    if found is None and isinstance(data.get(many), list) and data[many]:
        found = data[many][0]
    if found is None:
        raise checks.wrong(one, "is missing")
    return found


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise checks.wrong(what, "is no text")
    return value


def _login(data: Mapping[str, Any]) -> Login | None:
    method = checks.text(data, "auth_method")
    if method is None:
        return None
    if method.upper() != "CHAP":
        raise checks.wrong("auth_method", "is not CHAP")
    username = checks.name(checks.needed(data, "auth_username"), "auth_username")
    value = checks.secret(data.get("auth_password"), "auth_password")
    return Login(username=username, purpose="iscsi", value=value)

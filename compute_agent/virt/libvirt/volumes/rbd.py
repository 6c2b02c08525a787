# SPDX-License-Identifier: Apache-2.0
"""``rbd``: an image of a Ceph cluster, through QEMU's own client.

``data``: ``name`` (pool/image), ``hosts`` and ``ports`` of the monitors, ``auth_enabled``,
``auth_username``, and the key: ``keyring`` (the text of a keyring, or the key), or ``secret_uuid`` of a
secret that the host's operator has put into libvirt.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from compute_agent.virt.libvirt.volumes import checks
from compute_agent.virt.libvirt.volumes.place import Login, NetworkSource, Place, Server

_KEY = re.compile(r"(?:^|\n)\s*key\s*=\s*([A-Za-z0-9+/=]{8,200})\s*(?:\n|\Z)")
_PORT = 6789
_MOST_HOSTS = 32


def read(data: Mapping[str, Any]) -> Place:
    """Return where the volume is."""
    name = checks.needed(data, "name").split("/")
    if len(name) not in (2, 3):
        raise checks.wrong("name", "is not pool/image")
    network = NetworkSource(
        protocol="rbd",
        name="/".join(checks.name(part, "name") for part in name),
        servers=_servers(data),
    )
    return Place(network=network, login=_login(data))


def _servers(data: Mapping[str, Any]) -> tuple[Server, ...]:
    hosts, ports = data.get("hosts") or [], data.get("ports") or []
    if not isinstance(hosts, list) or not isinstance(ports, list) or not len(hosts) <= _MOST_HOSTS:
        raise checks.wrong("hosts", "and ports are no lists")
    if ports and len(ports) != len(hosts):
        raise checks.wrong("ports", "are not as many as hosts")
    pairs = zip(hosts, ports or [_PORT] * len(hosts), strict=True)
    return tuple(
        Server(host=checks.host(host, "hosts"), port=checks.port(port, "ports")) for host, port in pairs
    )


def _login(data: Mapping[str, Any]) -> Login | None:
    if not checks.flag(data, "auth_enabled"):
        return None
    username = checks.name(checks.needed(data, "auth_username"), "auth_username")
    keyring = checks.text(data, "keyring")
    if keyring is not None:
        return Login(username=username, purpose="ceph", value=_key(keyring))
    known = checks.uuid(data.get("secret_uuid"), "secret_uuid")
    return Login(username=username, purpose="ceph", known=known)


def _key(keyring: str) -> bytes:
    """Return the key's bytes: libvirt writes them in base64 again, as Ceph has them."""
    found = _KEY.search(keyring)
    try:
        key = base64.b64decode(found[1] if found else keyring.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise checks.wrong("keyring", "holds no key")
    return key

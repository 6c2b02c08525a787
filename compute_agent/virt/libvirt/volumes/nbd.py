# SPDX-License-Identifier: Apache-2.0
"""``nbd``: a network block device, through QEMU itself.

``data``: ``host`` and ``port``, or ``socket``; ``export`` (or ``name``); ``tls``.

QEMU holds the guest's requests while the server is away, for ``[volumes] nbd_reconnect_delay`` seconds.
"""

from collections.abc import Mapping
from typing import Any

from compute_agent.conf import CONF
from compute_agent.virt.libvirt.volumes import checks
from compute_agent.virt.libvirt.volumes.place import NetworkSource, Place, Server

PORT = 10809


def read(data: Mapping[str, Any]) -> Place:
    """Return where the volume is."""
    export = checks.text(data, "export", "export_name", "name")
    network = NetworkSource(
        protocol="nbd",
        name=None if export is None else checks.name(export, "export"),
        servers=(_server(data),),
        tls=True if checks.flag(data, "tls") else None,
        reconnect_s=CONF.volumes.nbd_reconnect_delay or None,
    )
    return Place(network=network)


def _server(data: Mapping[str, Any]) -> Server:
    socket = checks.text(data, "socket", "unix_socket")
    if socket is not None:
        if data.get("host") or data.get("port"):
            raise checks.wrong("socket", "does not go with host and port")
        return Server(socket=checks.path(socket, "socket"))
    return Server(
        host=checks.host(checks.needed(data, "host"), "host"), port=checks.port(data.get("port", PORT))
    )

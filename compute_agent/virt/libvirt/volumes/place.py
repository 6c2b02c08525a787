# SPDX-License-Identifier: Apache-2.0
"""Where a volume is, as QEMU opens it: a file, a block device, or a place in the network."""

import dataclasses

from compute_agent.virt.libvirt import config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """A server of a network disk: a host and a port, or a Unix socket."""

    host: str | None = None
    port: int | None = None
    socket: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Login:
    """How to log in to a server: a name, and the secret's purpose and value; None: ``known`` names it.

    :param purpose: ``iscsi`` or ``ceph``, as libvirt calls it
    :param known: the uuid of a secret that the host's operator has put into libvirt
    """

    username: str
    purpose: str
    value: bytes | None = dataclasses.field(default=None, repr=False)
    known: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSource:
    """A disk in the network.

    :param protocol: ``nbd``, ``iscsi`` or ``rbd``
    :param name: the export, the target and unit, the pool and image
    :param secret: libvirt's uuid of the secret to log in with
    :param initiator: who this host is to an iSCSI target
    :param reconnect_s: how long QEMU holds the guest's requests while the server is away
    """

    protocol: str
    name: str | None = None
    servers: tuple[Server, ...] = ()
    username: str | None = None
    secret_type: str | None = None
    secret: str | None = None
    initiator: str | None = None
    reconnect_s: int | None = None
    tls: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """What a protocol's module makes of ``connection_info``.

    :param path: of a file or a device; None for a place in the network
    :param login: how to log in there
    """

    path: str | None = None
    block: bool = False
    network: NetworkSource | None = None
    login: Login | None = None
    format: str = "raw"


def write(disk: config.Disk, network: NetworkSource) -> config.Disk:
    """Return ``disk`` with its source in the network."""
    return dataclasses.replace(
        disk,
        type=config.DiskType.NETWORK,
        source_file=None,
        source_device=None,
        source_protocol=network.protocol,
        source_name=network.name,
        source_tls=network.tls,
        source_hosts=[_host(server) for server in network.servers],
        initiator=network.initiator,
        auth_username=network.username,
        auth_secret_type=network.secret_type,
        auth_secret=network.secret,
        reconnect_s=network.reconnect_s,
    )


def _host(server: Server) -> config.DiskSourceHost:
    if server.socket is not None:
        return config.DiskSourceHost(transport="unix", socket=server.socket)
    return config.DiskSourceHost(name=server.host, port=server.port)

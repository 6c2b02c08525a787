# SPDX-License-Identifier: Apache-2.0
"""Makes a volume ready for QEMU on this host, and takes that back.

Of a volume in the network only its secrets are put into libvirt, and its server is asked whether it is
there, so that a server that is not is told as what it is and not as an error of QEMU. Everything here may
be repeated.
"""

import logging
import os
import posix
import socket
import stat
from collections.abc import Iterable
from typing import Any

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.images import addresses
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.volumes import brick, chain, checks, connection, nfs, secrets
from compute_agent.virt.libvirt.volumes.connection import Volume
from compute_agent.virt.libvirt.volumes.place import Server

LOG = logging.getLogger(__name__)


def connect(driver: LibvirtBase, volume: Volume, instance: Instance) -> None:
    """Make a volume ready.

    :raises VolumeUnavailable: if it can't be reached
    :raises PermissionDenied, ImageUnsafe: if its path leads where it may not
    """
    if volume.kind == "nfs":
        _mount(driver, volume)
    if volume.by_host:
        paths = driver._paths(instance)
        driver._file_threads.call(brick.connect, volume.kind, volume.data, paths, volume.volume_id)
    elif volume.disk.network is None:
        driver._on_disk(_check_path, volume)
    else:
        reach(driver, volume.disk.network.servers)
    driver._host.act(secrets.keep, list(volume.secrets))


def disconnect(driver: LibvirtBase, volume: Volume, instance: Instance) -> None:
    """Take back what :func:`connect` did. The file system of an export stays mounted: others may use it."""
    if volume.by_host:
        paths = driver._paths(instance)
        driver._file_threads.call(brick.disconnect, volume.kind, volume.data, paths, volume.volume_id)
    forget(driver, instance.uuid, volume.volume_id)


def forget(driver: LibvirtBase, instance_uuid: str, volume_id: str) -> None:
    """Remove a volume's secrets."""
    driver._host.act(secrets.drop, instance_uuid, volume_id)


def connect_all(driver: LibvirtBase, instance: Instance) -> None:
    """Make all volumes of an instance ready. Raises as :func:`connect`."""
    for volume in connection.of_instance(instance, driver._paths(instance)):
        connect(driver, volume, instance)


def disconnect_all(driver: LibvirtBase, instance: Instance) -> None:
    """Take back what :func:`connect_all` did, and the secrets of volumes that are on no record.

    A volume that can't be disconnected is told in the log, and keeps nobody from removing its instance.
    """
    for device in instance.block_device_mapping:
        kind = (device.connection_info or {}).get("driver_volume_type")
        if isinstance(kind, str) and connection.is_by_host(kind):
            try:
                disconnect(driver, connection.of_device(device, driver._paths(instance)), instance)
            except errors.ComputeError as error:
                LOG.error("volume %s stays connected to the host: %s", device.volume_id, error.message)
    driver._host.act(secrets.drop_all, instance.uuid)


def _mount(driver: LibvirtBase, volume: Volume) -> None:
    directory = os.path.dirname(volume.disk.source)
    if not driver._on_disk(nfs.is_mounted, directory):
        nfs.mount(volume.data)


def _check_path(volume: Volume) -> None:
    """In a native thread."""
    path = volume.disk.source
    try:
        mode = posix.stat(path).st_mode
    except OSError as error:
        raise errors.VolumeUnavailable(f"{path} can't be used: {error.strerror}") from None
    if not (stat.S_ISBLK(mode) if volume.disk.block else stat.S_ISREG(mode)):
        raise errors.InvalidArguments(f"{path} is no {'block device' if volume.disk.block else 'file'}")
    if volume.kind == "nfs":
        checks.stays_below(path, os.path.dirname(path))
    elif volume.disk.format == "qcow2":
        chain.check(path, volume.disk.format)
    else:
        checks.real(path)


def reach(driver: LibvirtBase, servers: Iterable[Server]) -> None:
    """Reach one of the servers; none given means that the host's own configuration names them.

    :raises VolumeUnavailable: if none can be reached
    """
    failures = []
    for server in servers:
        try:
            return _try(driver, server)
        except OSError as error:
            place = server.socket or f"{server.host}:{server.port}"
            failures.append(f"{place}: {error.strerror or error}")
    if failures:
        raise errors.VolumeUnavailable("the volume's server can't be reached", evidence="; ".join(failures))


def _try(driver: LibvirtBase, server: Server) -> None:
    if server.socket is not None:
        driver._on_disk(checks.real, server.socket)
        found: list[tuple[int, Any]] = [(socket.AF_UNIX, server.socket)]
    else:
        found = driver._on_disk(addresses.resolve, str(server.host), int(server.port or 0))
    failure = OSError("no address")
    for family, address in found:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(float(CONF.volumes.connect_timeout))
            try:
                return sock.connect(address)
            except OSError as error:
                failure = error
    raise failure

# SPDX-License-Identifier: Apache-2.0
"""Whether QEMU will find a guest's volumes, asked before the guest is started, or ended to be started.

Without that a server that is away shows as an error of QEMU, after a guest that ran was ended. What counts
is the domain's definition, which QEMU goes by; of a guest without volumes nothing is asked.

Volumes that the host connects are connected again: after a boot of the host the device that their link leads
to may be another one.
"""

import posix

from compute_agent.model import errors
from compute_agent.model.block_device import BlockDevice, SourceType
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import config, guest
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.volumes import brick, connect, connection
from compute_agent.virt.libvirt.volumes.place import Server

_PORTS = {"nbd": 10809, "iscsi": 3260}
"""Of a protocol that needs none to be told; the others find their servers by themselves."""


def check(driver: LibvirtBase, instance: Instance) -> None:
    """Say whether the volumes of a guest can be opened.

    :raises VolumeUnavailable: naming one that can't
    """
    devices = instance.block_device_mapping
    known = {device.volume_id: device for device in devices if device.source_type is SourceType.VOLUME}
    if not known:
        return
    try:
        definition = driver._host.ask_guest(instance.uuid, guest.definition)
    except errors.InstanceNotFound:
        return
    found = config.Domain.from_xml(definition).devices
    for disk in [] if found is None else found.disks:
        if disk.serial in known:
            _connect_again(driver, instance, known[disk.serial])
            _check_disk(driver, disk)


def _connect_again(driver: LibvirtBase, instance: Instance, device: BlockDevice) -> None:
    kind = (device.connection_info or {}).get("driver_volume_type")
    if isinstance(kind, str) and connection.is_by_host(kind):
        paths = driver._paths(instance)
        volume = connection.of_device(device, paths)
        driver._file_threads.call(brick.connect, volume.kind, volume.data, paths, volume.volume_id)


def _check_disk(driver: LibvirtBase, disk: config.Disk) -> None:
    if path := disk.source_file or disk.source_device:
        try:
            driver._on_disk(posix.stat, path)
        except FileNotFoundError as error:
            raise errors.VolumeUnavailable(
                f"volume {disk.serial} can't be used: {error.strerror}", evidence=path
            ) from None
        return
    usual = _PORTS.get(str(disk.source_protocol))
    servers = [
        Server(host=host.name, port=host.port or usual, socket=host.socket)
        for host in disk.source_hosts
        if host.socket or host.port or usual
    ]
    connect.reach(driver, servers)

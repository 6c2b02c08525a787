# SPDX-License-Identifier: Apache-2.0
"""Telling a guest that its volume has grown.

QEMU reads the size of an iSCSI unit, an RBD image or a device anew when it is told to; a volume that is a
file is made larger by it, or by the agent where the guest is off. The size that an NBD server names is told
when a connection begins, and stays: so the server has to end the connection when the volume has grown. QEMU
then connects again with the guest's next request, and until then it is asked again and again.
"""

import posix
import struct

import libvirt

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.images import disks as images
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.volumes import brick, chain, found
from compute_agent.virt.libvirt.volumes.connection import Volume
from compute_agent.virt.libvirt.volumes.found import Found

LOOK_S = 1.0
PATIENCE_S = 60.0
LUKS_ROOM = 32 * 2**20
"""More than the header of LUKS takes: so much less is asked for, and QEMU finds the true size."""


class Extend:
    """One extension."""

    def __init__(self, driver: LibvirtBase, instance: Instance, volume: Volume) -> None:
        self._driver = driver
        self._instance = instance
        self._volume = volume

    def steps(self) -> list[Step]:
        """Return the parts.

        :raises InvalidArguments: if the new size is not said
        """
        if not self._volume.size_bytes:
            raise errors.InvalidArguments("the volume's new size is not said")
        return [Step("resize", self._resize, done=self._is_seen)]

    def _look(self) -> Found:
        return self._driver._host.ask_guest(self._instance.uuid, found.look, self._volume.volume_id)

    def _is_seen(self) -> bool:
        there = self._look()
        found.attached(there, self._volume.volume_id)
        if there.live is None:  # it sees its size when it starts
            return not self._volume.is_file or self._size_of(there) >= self._volume.size_bytes
        size = self._driver._host.ask_monitor(self._instance.uuid, capacity, str(there.live.target))
        return size + self._room >= self._volume.size_bytes

    @property
    def _room(self) -> int:
        return LUKS_ROOM if self._volume.disk.luks_secret else 0

    def _size_of(self, there: Found) -> int:
        """Return the bytes of a file that no guest uses now, as the guest will see them."""
        path, disk_format = _file(there)
        if disk_format == "raw":
            return int(self._driver._on_disk(posix.stat, path).st_size)
        self._driver._on_disk(chain.check, path, disk_format)
        return images.info(path, disk_format).virtual_size

    def _resize(self) -> None:
        there = self._look()
        if there.live is None and self._volume.is_file:
            images.resize(*_file(there), self._volume.size_bytes)
            return
        target = str(found.running(there, self._volume.volume_id).target)
        resize(self._driver, self._instance.uuid, target, self._wanted())

    def _wanted(self) -> int:
        """Return the size to ask QEMU for, in bytes: what the guest sees."""
        volume = self._volume
        if volume.by_host:
            self._driver._file_threads.call(brick.extend, volume.kind, volume.data)
        if not volume.disk.luks_secret:
            return volume.size_bytes
        if volume.is_file:
            return volume.size_bytes - self._driver._on_disk(luks_offset, volume.disk.source)
        return volume.size_bytes - LUKS_ROOM


def _file(there: Found) -> tuple[str, str]:
    assert there.kept is not None and there.kept.source_file is not None
    return there.kept.source_file, str(there.kept.format or "raw")


def resize(driver: LibvirtBase, uuid: str, target: str, size: int) -> None:
    """Let QEMU and the guest see that a disk has ``size`` bytes.

    :raises VolumeUnavailable: if QEMU does not find it to have grown
    """
    work, evidence = steps.current(), None
    for _ in range(int(PATIENCE_S / LOOK_S)):
        try:
            return driver._host.act_guest(uuid, resize_now, target, size)
        except errors.HypervisorError as error:
            evidence = error.evidence
        work.sleep(LOOK_S)
    raise errors.VolumeUnavailable(
        "QEMU does not find the volume to have grown",
        evidence=evidence,
        hint="an NBD server has to end the connection when a volume has grown",
    )


def luks_offset(path: str) -> int:
    """Return how much the header of a LUKS file takes, in bytes. In a native thread.

    :raises VolumeUnavailable: if it can't be read, or is no LUKS file of version 1
    """
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise errors.VolumeUnavailable(f"{path} can't be read: {error.strerror}") from None
    try:
        head = posix.pread(fd, 108, 0)
    finally:
        posix.close(fd)
    if len(head) < 108 or head[:8] != b"LUKS\xba\xbe\x00\x01":
        raise errors.VolumeUnavailable(f"{path} is not encrypted with LUKS", retryable=False)
    return int(struct.unpack(">I", head[104:108])[0]) * 512


def capacity(domain: libvirt.virDomain, target: str) -> int:
    """Return the bytes that the guest sees. In a native thread."""
    return int(domain.blockInfo(target, 0)[0])


def resize_now(domain: libvirt.virDomain, target: str, size: int) -> None:
    """Let QEMU and the guest see a new size; a disk never shrinks. In a native thread."""
    if capacity(domain, target) < size:
        domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

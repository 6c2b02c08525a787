# SPDX-License-Identifier: Apache-2.0
"""Swapping a volume: QEMU copies it to another while the guest runs, then the guest goes over to that.

Until the guest goes over, everything can be given up without a trace: the copy is a block job that ends
with it, and the definition still names the old volume. Going over and putting the new volume into the
definition are one step, since there is no way back from there. A job survives a restart of the agent: it is
found again by where it copies to.
"""

import dataclasses
import logging

import libvirt
from lxml import etree

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.libvirt import blockjobs, config, design_devices, faults
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.blockjobs import JobState
from compute_agent.virt.libvirt.config import element
from compute_agent.virt.libvirt.properties import Properties
from compute_agent.virt.libvirt.volumes import connect, found
from compute_agent.virt.libvirt.volumes.connection import Volume
from compute_agent.virt.libvirt.volumes.extend import capacity
from compute_agent.virt.libvirt.volumes.extend import resize_now as resize
from compute_agent.virt.libvirt.volumes.found import Found

LOG = logging.getLogger(__name__)

MIB = 2**20
_COPY = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB


class Swap:
    """One swap.

    :param size_bytes: the new size; 0 leaves it
    """

    def __init__(
        self, driver: LibvirtBase, instance: Instance, old: Volume, new: Volume, size_bytes: int
    ) -> None:
        self._driver = driver
        self._host = driver._host
        self._instance = instance
        self._uuid = instance.uuid
        self._old = old
        self._new = new
        self._size = size_bytes

    def steps(self) -> list[Step]:
        """Return the parts.

        :raises InstanceNotFound: if there is no such guest
        :raises VolumeUnavailable: if the old volume is not attached
        :raises InvalidState: if the guest does not run
        :raises DeviceBusy: if the new volume is attached already
        """
        self._check()
        made = [
            Step("connect", self._connect, undo=self._disconnect_new),
            Step("copy", self._copy, done=self._is_over, undo=self._give_up),
            Step("pivot", self._go_over, done=self._is_kept),
            Step("disconnect", self._disconnect_old),
        ]
        if self._size:
            made.insert(3, Step("resize", self._resize))
        return made

    def _look(self, volume: Volume) -> Found:
        return self._host.ask_guest(self._uuid, found.look, volume.volume_id)

    def _check(self) -> None:
        new = self._look(self._new)
        if new.half is not None:
            if not steps.current().resumed:
                raise errors.DeviceBusy(f"volume {self._new.volume_id} is attached already", retryable=False)
            return
        there = found.running(self._look(self._old), self._old.volume_id)
        if there.read_only and not self._new.disk.read_only:
            raise errors.InvalidArguments("a volume that is read only can't be swapped for one that is not")

    @property
    def _target(self) -> str:
        there = self._look(self._old)
        there = self._look(self._new) if there.half is None else there
        return str(found.running(there, self._old.volume_id).target)

    def _design(self, target: str) -> config.Disk:
        """Return the new volume's disk in the place of the old one."""
        asked, facts = Properties.of(self._instance), self._driver._facts()
        there = self._look(self._old)
        return place_in(design_devices.one(self._new.disk, asked, facts, there.machine, ()), target)

    # --- steps ---------------------------------------------------------------------------------------

    def _connect(self) -> None:
        connect.connect(self._driver, self._new, self._instance)

    def _disconnect_new(self) -> None:
        if not self._is_over():
            connect.disconnect(self._driver, self._new, self._instance)

    def _disconnect_old(self) -> None:
        try:
            connect.disconnect(self._driver, self._old, self._instance)
        except errors.ComputeError as error:  # the guest has gone over: that is what counts
            LOG.warning("volume %s could not be disconnected: %s", self._old.volume_id, error.message)

    def _is_over(self) -> bool:
        """Whether the guest has gone over to the new volume."""
        there = self._look(self._new)
        there = self._look(self._old) if there.half is None else there
        return there.live is not None and same_place(there.live, self._design(str(there.live.target)))

    def _is_kept(self) -> bool:
        return self._is_over() and self._look(self._new).kept is not None

    def _copy(self) -> None:
        target = self._target
        copy = element.parse(self._design(target).to_xml())
        if self._size:
            limit_to(copy, self._host.ask_monitor(self._uuid, capacity, target))
        xml = etree.tostring(copy, encoding="unicode")
        with self._driver._block_jobs.watching(self._uuid, target) as watch:
            limit = CONF.volumes.swap_bandwidth_mb
            self._host.act_guest(self._uuid, _start, target, xml, limit * MIB)
            job = watch.wait(frozenset({JobState.READY}))
        if job.state is not JobState.READY:
            raise errors.VolumeUnavailable(
                "QEMU has given up copying the volume",
                hint="the new one may be too small; QEMU's log says more",
            )

    def _give_up(self) -> None:
        there = self._look(self._old)
        if there.live is not None and not self._is_over():
            self._driver._block_jobs.abort(self._uuid, str(there.live.target))

    def _go_over(self) -> None:
        target = self._target
        copy = self._design(target)
        if not self._is_over():
            self._driver._block_jobs.pivot(self._uuid, target)
            job = self._driver._block_jobs.wait(self._uuid, target, frozenset())
            if job.state is not JobState.NONE or not self._is_over():
                raise errors.VolumeUnavailable("QEMU did not go over to the new volume")
        self._host.act_guest(self._uuid, _keep, target, copy.to_xml())

    def _resize(self) -> None:
        """Let the guest see the new size; where libvirt can't do that, its next start does."""
        try:
            self._host.act_guest(self._uuid, resize, self._target, self._size)
        except (errors.HypervisorError, errors.UnsupportedOperation) as error:
            LOG.warning("guest %s sees the new size when it starts next: %s", self._uuid, error.message)


def limit_to(disk: etree._Element, size: int) -> None:
    """Let QEMU use only the first ``size`` bytes of a disk: it copies between disks of one size only."""
    for source in disk.iterfind("source"):
        slices = etree.SubElement(source, "slices")
        etree.SubElement(slices, "slice", type="storage", offset="0", size=str(size))


def place_in(disk: config.Disk, target: str) -> config.Disk:
    """Return ``disk`` under the name ``target``."""
    return dataclasses.replace(disk, target=target)


def same_place(one: config.Disk, other: config.Disk) -> bool:
    """Whether two disks are the same file, device or place in the network."""
    return _place(one) == _place(other)


def _place(disk: config.Disk) -> tuple[object, ...]:
    hosts = [(host.name, host.port, host.socket) for host in disk.source_hosts]
    return (disk.source_file, disk.source_device, disk.source_protocol, disk.source_name, hosts)


def _start(domain: libvirt.virDomain, target: str, xml: str, bandwidth: int) -> None:
    """Begin to copy to the disk in ``xml``, unless that is under way. In a native thread.

    :raises DeviceBusy: if another job has the disk
    """
    mirror = blockjobs.disk_element(domain, target, "mirror")
    if mirror is not None:
        if _is_to(mirror, config.Disk.from_xml(xml)):
            return
        raise errors.DeviceBusy("something else is done to the volume")
    settings = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: bandwidth} if bandwidth else {}
    try:
        domain.blockCopy(target, xml, settings, _COPY)
    except libvirt.libvirtError as error:
        if faults.is_lost(error) or domain.isActive():
            raise
        raise errors.InvalidState("the guest does not run", evidence=str(error)) from None


def _is_to(mirror: etree._Element, wanted: config.Disk) -> bool:
    """Whether a copy goes to the disk that is wanted."""
    disk = etree.Element("disk", type=mirror.get("type", "file"))
    for source in mirror.iterfind("source"):
        disk.append(source)
    return same_place(config.Disk.from_element(disk), wanted)


def _keep(domain: libvirt.virDomain, target: str, xml: str) -> None:
    """Put the new volume into the definition, in the place of the old one. In a native thread."""
    root = element.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    for disk in root.iterfind("devices/disk"):
        if disk.xpath("string(target/@dev)") == target:
            domain.updateDeviceFlags(replaced(disk, element.parse(xml)), libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def replaced(disk: etree._Element, other: etree._Element) -> str:
    """Return ``disk`` with the source and the serial number of ``other``; address and the like stay."""
    for tag in ("source", "backingStore", "mirror", "serial", "encryption", "auth"):
        for node in disk.findall(tag):
            disk.remove(node)
    disk.set("type", other.get("type", "file"))
    for tag in ("source", "serial"):
        disk.extend(other.findall(tag))
    driver, wanted = disk.find("driver"), other.find("driver")
    if driver is not None and wanted is not None:
        driver.set("type", wanted.get("type", "raw"))
    return etree.tostring(disk, encoding="unicode", with_tail=False)

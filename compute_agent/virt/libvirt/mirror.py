# SPDX-License-Identifier: Apache-2.0
"""A running guest's disk, copied by QEMU itself while the guest goes on.

QEMU copies the disk, and from then on writes what the guest writes to both; ended without a pivot, the
copy is the disk as it was at that moment, whole and standing on nothing. The guest's own disk, its chain
and its definition are never touched, so whatever is killed in the middle, ending the job leaves no trace.

These functions run in native threads, with libvirt's own object.
"""

import dataclasses
from collections.abc import Callable

import libvirt
from lxml import etree

from compute_agent.model import errors
from compute_agent.virt.libvirt import blockjobs, faults
from compute_agent.virt.libvirt.config import element

MIB = 2**20
_FLAGS = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
_BOTH_AT_ONCE = libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
"""Guest writes go to the copy at once too, so that a guest that writes all the time can't outrun it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnDisk:
    """A disk of a domain: what the domain calls it, and how QEMU reads it."""

    target: str
    format: str
    encrypted: bool


def disk_of(domain: libvirt.virDomain, path: str) -> OwnDisk | None:
    """Return the disk whose file is at ``path``; None if the domain has none."""
    for disk in _disks(domain, 0 if domain.isActive() else libvirt.VIR_DOMAIN_XML_INACTIVE):
        if disk.xpath("string(source/@file)") == path:
            return OwnDisk(
                target=str(disk.xpath("string(target/@dev)")),
                format=str(disk.xpath("string(driver/@type)")) or "raw",
                encrypted=bool(disk.xpath("source/encryption | encryption")),
            )
    return None


def start(domain: libvirt.virDomain, target: str, path: str, disk_format: str, bandwidth_mib: int) -> None:
    """Begin to copy a disk to the file ``path``, which is made. One that is under way stays so.

    :raises InvalidState: if the guest is off
    :raises DeviceBusy: if something else is done to the disk
    """
    copy = etree.Element("disk", type="file")
    etree.SubElement(copy, "source", file=path)
    etree.SubElement(copy, "driver", type=disk_format)
    settings = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: bandwidth_mib * MIB} if bandwidth_mib else {}
    try:
        domain.blockCopy(target, etree.tostring(copy, encoding="unicode"), settings, _FLAGS | _BOTH_AT_ONCE)
    except libvirt.libvirtError as error:
        if faults.is_lost(error):
            raise
        if not domain.isActive():
            raise errors.InvalidState("the guest does not run", evidence=str(error)) from None
        mirror = blockjobs.disk_element(domain, target, "mirror")
        if mirror is not None and mirror.get("file") == path:
            return  # the connection broke when it had begun
        if domain.blockJobInfo(target, 0):
            raise errors.DeviceBusy("something else is done to the disk", evidence=str(error)) from None
        raise


def end(domain: libvirt.virDomain, target: str, path: str) -> None:
    """End a copy that is ready: it is the disk as of now.

    :raises HypervisorError: if there is none, or it is not ready
    """
    mirror = blockjobs.disk_element(domain, target, "mirror")
    if mirror is None or mirror.get("file") != path or mirror.get("ready") != "yes":
        raise errors.HypervisorError("QEMU has given up copying the disk")
    domain.blockJobAbort(target, 0)


def end_all(domain: libvirt.virDomain, ours: Callable[[str], bool]) -> int:
    """End all copies to files that are ``ours``, by their paths; return how many there were.

    What others copy elsewhere goes on.
    """
    ended = 0
    for disk in _disks(domain, 0) if domain.isActive() else ():
        path = str(disk.xpath("string(mirror/@file)"))
        if path and ours(path):
            try:
                domain.blockJobAbort(str(disk.xpath("string(target/@dev)")), 0)
            except libvirt.libvirtError as error:
                if faults.is_lost(error) or not (faults.is_wrong_state(error) or not domain.isActive()):
                    raise  # else it has ended meanwhile
            ended += 1
    return ended


def _disks(domain: libvirt.virDomain, flags: int) -> list[etree._Element]:
    return list(element.parse(domain.XMLDesc(flags)).iterfind("devices/disk"))

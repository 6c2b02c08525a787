# SPDX-License-Identifier: Apache-2.0
"""The XML of a guest that is moved: what the checks want to know, and how it reads at the destination.

Libvirt moves the guest as it runs; only what names things of a host changes: the directory of the instances,
bridges and packet filters, where graphical consoles listen, and where volumes are found.
"""

import dataclasses
import os
from collections.abc import Collection, Mapping

from lxml import etree

from compute_agent.model import errors
from compute_agent.virt.libvirt import config
from compute_agent.virt.libvirt.config import element
from compute_agent.virt.libvirt.migration.details import Destination

_FILES = ("devices/disk/source", "devices/serial/log", "devices/console/log")
_PLACE = (
    "type",
    "source_file",
    "source_device",
    "source_protocol",
    "source_name",
    "source_tls",
    "source_hosts",
    "initiator",
    "auth_username",
    "auth_secret_type",
    "auth_secret",
    "encryption",
    "encryption_secret_type",
    "encryption_secret",
    "reconnect_s",
)
"""The fields of a disk that say where it is."""


def parsed(xml: str) -> etree._Element:
    """Parse a domain's XML."""
    return element.parse(xml)


def machine(root: etree._Element) -> str:
    """Return the machine type."""
    return str(root.xpath("string(os/type/@machine)")) or "none"


def cpu(root: etree._Element) -> str | None:
    """Return the guest's processor as XML; None if it names none."""
    found = root.find("cpu")
    if found is None or found.find("model") is None:
        return None
    return str(etree.tostring(found, encoding="unicode"))


def passed_through(root: etree._Element) -> list[str]:
    """Return the host's devices that the guest has, which can't be moved."""
    return [str(device.get("type") or "device") for device in root.iterfind("devices/hostdev")]


@dataclasses.dataclass(frozen=True)
class OwnDisk:
    """A disk in the instance's directory that the guest writes to; ``chain``: it and all it stands on."""

    target: str
    name: str
    format: str
    chain: list[str]
    encrypted: bool


def own_disks(root: etree._Element, directory: str) -> list[OwnDisk]:
    """Return the disks that have to be copied to a host which does not see ``directory``."""
    return [
        OwnDisk(
            target=str(disk.xpath("string(target/@dev)")),
            name=os.path.basename(str(disk.xpath("string(source/@file)"))),
            format=str(disk.xpath("string(driver/@type)")) or "raw",
            chain=_chain(disk),
            encrypted=bool(disk.xpath("encryption | source/encryption")),
        )
        for disk in root.iterfind("devices/disk")
        if os.path.dirname(str(disk.xpath("string(source/@file)"))) == directory
        and disk.find("readonly") is None
    ]


def _chain(disk: etree._Element) -> list[str]:
    nodes = [*disk.iterfind("source"), *disk.iterfind(".//backingStore/source")]
    return [str(node.get("file")) for node in nodes if node.get("file")]


def comparable_cpu(xml: str) -> str:
    """Return a processor that another host has told, as XML that libvirt may be asked about.

    :raises InvalidArguments: if it is no processor
    """
    try:
        root = element.parse(xml)
    except element.XmlError as error:
        raise errors.InvalidArguments(f"the guest's processor can't be read: {error}") from None
    if root.tag != "cpu":
        raise errors.InvalidArguments("the guest's processor can't be read")
    for topology in root.findall("topology"):
        root.remove(topology)
    return etree.tostring(root, encoding="unicode")


def for_destination(
    xml: str, instances_path: str, to: Destination, copied: Collection[str] = ()
) -> str | None:
    """Return the XML that the guest has at the destination; None if it is the one that it has here.

    :param xml: the migratable one, secrets included
    :param copied: the targets of the disks that are copied
    """
    root = element.parse(xml)
    changed = [
        _move_files(root, os.path.join(instances_path, ""), os.path.join(to.instances_path, "")),
        _change_bridges(root, {mac.lower(): bridge for mac, bridge in to.bridges.items()}),
        _change_filters(root, to.filters),
        _change_listeners(root, {str(kind): address for kind, address in to.listen.items()}),
        _forget_copied_chains(root, copied),
        _change_volumes(root, to.volumes),
    ]
    return etree.tostring(root, encoding="unicode") if any(changed) else None


def _move_files(root: etree._Element, old: str, new: str) -> bool:
    changed = False
    for path in _FILES:
        for node in root.iterfind(path):
            file = node.get("file") or ""
            if old != new and file.startswith(old):
                node.set("file", new + file.removeprefix(old))
                _forget_chain(node.getparent())
                changed = True
    return changed


def _forget_copied_chains(root: etree._Element, copied: Collection[str]) -> bool:
    """A copied disk stands on nothing there; libvirt, once started again, says what it stands on here."""
    disks = [disk for disk in root.iterfind("devices/disk") if disk.xpath("string(target/@dev)") in copied]
    stood = any(disk.find("backingStore") is not None for disk in disks)
    for disk in disks:
        _forget_chain(disk)
    return stood


def _forget_chain(disk: etree._Element | None) -> None:
    """Let the destination find out what a disk stands on: there it is elsewhere, or nothing."""
    if disk is not None:
        for backing in disk.findall("backingStore"):
            disk.remove(backing)


def _change_bridges(root: etree._Element, bridges: dict[str, str]) -> bool:
    changed = False
    for interface in root.iterfind("devices/interface"):
        bridge = bridges.get(str(interface.xpath("string(mac/@address)")).lower())
        source = interface.find("source")
        if bridge and source is not None and source.get("bridge") not in (None, bridge):
            source.set("bridge", bridge)
            changed = True
    return changed


def _change_filters(root: etree._Element, filters: Mapping[str, str] | None) -> bool:
    """Put each interface behind the filter that it has there, if any; None: the destination does not tell."""
    if filters is None:
        return False
    names = {mac.lower(): name for mac, name in filters.items()}
    changed = False
    for interface in root.iterfind("devices/interface"):
        there = names.get(str(interface.xpath("string(mac/@address)")).lower())
        here = interface.find("filterref")
        if (here.get("filter") if here is not None else None) == there:
            continue
        if here is not None:
            interface.remove(here)
        if there is not None:
            etree.SubElement(interface, "filterref", filter=there)
        changed = True
    return changed


def _change_volumes(root: etree._Element, volumes: Mapping[str, str]) -> bool:
    changed = False
    for disk in root.iterfind("devices/disk"):
        told = volumes.get(str(disk.xpath("string(serial)")))
        if told is not None:
            changed |= _change_place(disk, config.Disk.from_xml(told))
    return changed


def _change_place(disk: etree._Element, there: config.Disk) -> bool:
    """Write where a disk is at the destination. Nothing of ``there`` but its place is looked at."""
    here = config.Disk.from_xml(etree.tostring(disk, encoding="unicode"))
    if all(getattr(here, name) == getattr(there, name) for name in _PLACE):
        return False
    place = config.Disk(**{name: getattr(there, name) for name in _PLACE}).to_element()
    for old in disk.findall("source"):
        disk.remove(old)
    disk.set("type", str(there.type))
    disk.extend(place.findall("source"))
    _forget_chain(disk)
    return True


def _change_listeners(root: etree._Element, addresses: dict[str, str]) -> bool:
    changed = False
    for graphics in root.iterfind("devices/graphics"):
        address = addresses.get(graphics.get("type") or "")
        for node in [graphics, *graphics.findall("listen[@type='address']")]:
            name = "listen" if node is graphics else "address"
            if address and node.get(name) not in (None, address):
                node.set(name, address)
                changed = True
    return changed

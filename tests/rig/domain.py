# SPDX-License-Identifier: Apache-2.0
"""The XML of a plain domain, for the rig's own use: warming up, judging the rig itself, foreign domains.

What the agent's driver writes is the driver's business and is not made here.
"""

from __future__ import annotations

import pathlib
import uuid as uuids
import xml.etree.ElementTree as ElementTree


def plain_domain(
    disk: pathlib.Path,
    console: pathlib.Path,
    *,
    uuid: str | None = None,
    name: str | None = None,
    disk_format: str = "raw",
    machine: str = "pc",
    memory_mib: int = 16,
) -> str:
    """A TCG domain that boots from `disk` and logs its serial port to `console`."""
    identity = uuid or str(uuids.uuid4())
    domain = ElementTree.Element("domain", type="qemu")
    _text(domain, "name", name or f"plain-{identity[:8]}")
    _text(domain, "uuid", identity)
    _text(domain, "memory", str(memory_mib)).set("unit", "MiB")
    _text(domain, "vcpu", "1")
    _text(ElementTree.SubElement(domain, "os"), "type", "hvm").set("machine", machine)
    ElementTree.SubElement(ElementTree.SubElement(domain, "features"), "acpi")
    devices = ElementTree.SubElement(domain, "devices")
    _disk(devices, disk, disk_format)
    _serial(devices, console)
    ElementTree.SubElement(devices, "memballoon", model="none")
    return ElementTree.tostring(domain, encoding="unicode")


def _text(parent: ElementTree.Element, tag: str, text: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = text
    return element


def _disk(devices: ElementTree.Element, path: pathlib.Path, disk_format: str) -> None:
    disk = ElementTree.SubElement(devices, "disk", type="file", device="disk")
    ElementTree.SubElement(disk, "driver", name="qemu", type=disk_format)
    ElementTree.SubElement(disk, "source", file=str(path))
    ElementTree.SubElement(disk, "target", dev="vda", bus="virtio")


def _serial(devices: ElementTree.Element, console: pathlib.Path) -> None:
    serial = ElementTree.SubElement(devices, "serial", type="pty")
    ElementTree.SubElement(serial, "log", file=str(console), append="off")

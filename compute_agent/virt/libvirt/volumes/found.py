# SPDX-License-Identifier: Apache-2.0
"""Finds a volume in a guest: in what runs, and in the definition for the next start.

A volume is known by the serial number of its disk, never by the disk's name alone. One thing can't change
while a guest runs: after a swap its disk still shows the serial number of the volume that was there before.
The definition says what is there now, so of two disks with one name the definition's number counts.

These functions run in native threads, with libvirt's own object.
"""

import dataclasses

import libvirt
from lxml import etree

from compute_agent.model import errors
from compute_agent.virt.libvirt import config
from compute_agent.virt.libvirt.config import element


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A volume in a guest.

    :param active: QEMU runs
    :param saved: the guest's memory is on disk, with its own idea of its disks
    :param live: its disk in what runs
    :param kept: its disk in the definition
    :param taken: the names of all disks
    :param live_xml: the whole element of ``live``, for libvirt; likewise ``kept_xml``
    """

    active: bool
    saved: bool
    machine: str
    live: config.Disk | None = None
    kept: config.Disk | None = None
    live_xml: str = ""
    kept_xml: str = ""
    taken: frozenset[str] = frozenset()

    @property
    def half(self) -> config.Disk | None:
        """Return its disk, wherever there is one."""
        return self.live or self.kept

    @property
    def whole(self) -> bool:
        """Whether it is wherever it has to be."""
        return self.kept is not None and (self.live is not None or not self.active)


def look(domain: libvirt.virDomain, volume_id: str) -> Found:
    """Look for a volume."""
    active = bool(domain.isActive())
    definition = element.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    kept = _disks(definition)
    live = _disks(element.parse(domain.XMLDesc(0))) if active else {}
    return in_disks(
        live, kept, volume_id, active=active, saved=_saved(domain, active), machine=_machine(definition)
    )


def in_disks(
    live: dict[str, etree._Element],
    kept: dict[str, etree._Element],
    volume_id: str,
    *,
    active: bool = True,
    saved: bool = False,
    machine: str = "",
) -> Found:
    """As :func:`look`, in the disks of a guest by their names."""
    named = {target: _serial(disk) for target, disk in kept.items()}
    now = next((t for t, disk in live.items() if named.get(t, _serial(disk)) == volume_id), None)
    later = next((t for t, serial in named.items() if serial == volume_id), None)
    return Found(
        active=active,
        saved=saved,
        machine=machine,
        live=None if now is None else config.Disk.from_element(live[now]),
        kept=None if later is None else config.Disk.from_element(kept[later]),
        live_xml="" if now is None else _text(live[now]),
        kept_xml="" if later is None else _text(kept[later]),
        taken=frozenset(live) | frozenset(kept),
    )


def attached(found: Found, volume_id: str) -> config.Disk:
    """Return the volume's disk.

    :raises VolumeUnavailable: if it is not attached
    """
    if found.half is None:
        raise errors.VolumeUnavailable(f"volume {volume_id} is not attached", retryable=False)
    return found.half


def running(found: Found, volume_id: str) -> config.Disk:
    """Return the volume's disk in a guest that runs.

    :raises VolumeUnavailable: if it is not attached; :raises InvalidState: if the guest is off
    """
    attached(found, volume_id)
    if found.live is None or found.live.target is None:
        raise errors.InvalidState("the guest does not run", hint="power_on starts it")
    return found.live


def _saved(domain: libvirt.virDomain, active: bool) -> bool:
    return not active and bool(domain.hasManagedSaveImage())


def _machine(definition: etree._Element) -> str:
    return str(definition.xpath("string(os/type/@machine)"))


def _disks(root: etree._Element) -> dict[str, etree._Element]:
    return {str(disk.xpath("string(target/@dev)")): disk for disk in root.iterfind("devices/disk")}


def _serial(disk: etree._Element) -> str:
    return disk.findtext("serial") or ""


def _text(node: etree._Element) -> str:
    return etree.tostring(node, encoding="unicode", with_tail=False)

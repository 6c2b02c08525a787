# SPDX-License-Identifier: Apache-2.0
"""Secrets of volumes, kept by libvirt: a domain names them by uuid and never holds them.

They are *private* (libvirt gives a value to QEMU and to nobody who asks) and kept on the host, since a
guest may have to start when no agent is there. Their uuid and name follow from instance, volume and
purpose, so that they are found, and removed, without a note. Functions that take a connection run in native
threads.
"""

import contextlib
import dataclasses
import uuid

import libvirt
from lxml import etree

from compute_agent.virt.libvirt import faults

LUKS = "luks"
_SPACE = uuid.UUID("5b9b3a55-6f5c-4d55-9d1c-7d1a5c1b2f10")
_PREFIX = "compute-agent"
_USAGES = {LUKS: ("volume", "volume"), "iscsi": ("iscsi", "target"), "ceph": ("ceph", "name")}
"""By purpose: libvirt's kind of the usage, and the element that names it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Secret:
    """One secret. ``value`` never shows."""

    instance_uuid: str
    volume_id: str
    purpose: str
    value: bytes = dataclasses.field(repr=False)

    @property
    def uuid(self) -> str:
        """Libvirt's uuid of it."""
        return secret_uuid(self.instance_uuid, self.volume_id, self.purpose)

    def to_xml(self) -> str:
        """Return its definition: all but the value."""
        kind, place = _USAGES[self.purpose]
        node = etree.Element("secret", ephemeral="no", private="yes")
        etree.SubElement(node, "uuid").text = self.uuid
        usage = etree.SubElement(node, "usage", type=kind)
        etree.SubElement(usage, place).text = _name(self.instance_uuid, self.volume_id, self.purpose)
        return etree.tostring(node, encoding="unicode")


def secret_uuid(instance_uuid: str, volume_id: str, purpose: str) -> str:
    """Return libvirt's uuid of a secret."""
    return str(uuid.uuid5(_SPACE, _name(instance_uuid, volume_id, purpose)))


def _name(instance_uuid: str, volume_id: str, purpose: str) -> str:
    return f"{_PREFIX}/{instance_uuid}/{volume_id}/{purpose}"


def keep(connection: libvirt.virConnect, wanted: list[Secret]) -> None:
    """Put secrets into libvirt. Repeating it is harmless; another value replaces the one that was there."""
    for secret in wanted:
        connection.secretDefineXML(secret.to_xml(), 0).setValue(secret.value, 0)


def drop(connection: libvirt.virConnect, instance_uuid: str, volume_id: str) -> None:
    """Remove a volume's secrets, if there are any."""
    for purpose in _USAGES:
        try:
            found = connection.secretLookupByUUIDString(secret_uuid(instance_uuid, volume_id, purpose))
        except libvirt.libvirtError as error:
            if faults.code(error) not in (libvirt.VIR_ERR_NO_SECRET, libvirt.VIR_ERR_NO_SUPPORT):
                raise
        else:
            _undefine(found)


def drop_all(connection: libvirt.virConnect, instance_uuid: str) -> None:
    """Remove all secrets of an instance's volumes."""
    try:
        there = connection.listAllSecrets(0)
    except libvirt.libvirtError as error:
        if faults.code(error) != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return  # a libvirt that keeps no secrets has none
    for found in there:
        with contextlib.suppress(_Gone):
            if _usage(found).startswith(f"{_PREFIX}/{instance_uuid}/"):
                _undefine(found)


class _Gone(Exception):
    """Somebody removed a secret meanwhile."""


def _usage(found: libvirt.virSecret) -> str:
    try:
        return str(found.usageID() or "")
    except libvirt.libvirtError as error:
        if faults.code(error) == libvirt.VIR_ERR_NO_SECRET:
            raise _Gone from None
        raise


def _undefine(found: libvirt.virSecret) -> None:
    try:
        found.undefine()
    except libvirt.libvirtError as error:
        if faults.code(error) != libvirt.VIR_ERR_NO_SECRET:
            raise

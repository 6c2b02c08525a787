# SPDX-License-Identifier: Apache-2.0
"""A domain designed again: a HARD reboot brings the record and the configuration to a guest that is there.

What libvirt has is never made worse. A guest that the agent did not make, one that is rescued, and one whose
disks are not exactly those of the record keep their definition: a disk that is lost is worse than an option
that is not taken over yet.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import libvirt

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif
from compute_agent.virt.libvirt import config, designer, disks, files, guest, metadata
from compute_agent.virt.libvirt.designer import DirectBoot

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.base import LibvirtBase

LOG = logging.getLogger(__name__)


class Redesign:
    """One domain.

    :param vifs: the guest's interfaces; None for those of the record
    :param operation_id: of the operation that designs it; stands in the description
    """

    def __init__(
        self, driver: "LibvirtBase", instance: Instance, vifs: Sequence[Vif] | None, operation_id: str | None
    ) -> None:
        self._driver = driver
        self._instance = instance.named()
        self._vifs = instance.network_info if vifs is None else vifs
        self._operation_id = operation_id
        self._paths = driver._paths(instance)

    def is_done(self) -> bool:
        """Return whether this very operation has designed it."""
        found = metadata.read(self._definition())
        return (
            found is not None and self._operation_id is not None and found.operation_id == self._operation_id
        )

    def do(self) -> None:
        """Define it anew, if nothing is lost by that."""
        try:
            xml = self._design(self._definition())
        except errors.InstanceNotFound:
            raise
        except errors.ComputeError as error:
            LOG.warning("instance %s keeps its definition: %s", self._instance.uuid, error.message)
            return
        if xml is not None:
            self._driver._host.act(_define, xml)

    def _definition(self) -> str:
        return self._driver._host.ask_guest(self._instance.uuid, guest.definition)

    def _design(self, present: str) -> str | None:
        """Return the new definition; None if the present one is to stay."""
        described, old = metadata.read(present), config.Domain.from_xml(present)
        if described is None or not self._driver._on_disk(files.is_there, self._paths.owner):
            return None
        settings = self._driver._settings()
        wanted = self._driver._on_disk(disks.of, self._instance, self._paths, settings)
        new = designer.design(
            self._instance,
            facts=self._driver._facts(),
            settings=settings,
            paths=self._paths,
            disks=disks.keeping_names(wanted, old),
            vifs=self._vifs,
            boot=_boot(old),
            operation_id=self._operation_id or described.operation_id,
        )
        if _sources(old) != _sources(new):
            LOG.info("instance %s keeps its definition: its disks are not those of its record", new.uuid)
            return None
        return new.to_xml()


def _boot(domain: config.Domain) -> DirectBoot | None:
    """Return the kernel that a domain boots, where it is now."""
    found = domain.os
    if found is None or found.kernel is None:
        return None
    return DirectBoot(kernel=found.kernel, ramdisk=found.initrd, cmdline=found.cmdline or "")


def _sources(domain: config.Domain) -> list[tuple[str, ...]]:
    """Return what stands behind a domain's disks."""
    found = domain.devices.disks if domain.devices is not None else []
    parts = ((d.source_file, d.source_device, d.source_protocol, d.source_name, d.format) for d in found)
    return sorted(tuple(part or "" for part in places) for places in parts)


def _define(connection: libvirt.virConnect, xml: str) -> None:
    connection.defineXML(xml)

# SPDX-License-Identifier: Apache-2.0
"""The libvirt driver, put together from its concerns.

Each concern is a class in a module of its own; what this release does not offer inherits
`UnsupportedOperation` from the contract.
"""

from compute_agent.virt.libvirt.coldmigration import LibvirtColdMigration
from compute_agent.virt.libvirt.disk_answers import LibvirtDisks
from compute_agent.virt.libvirt.hostinfo import LibvirtHost
from compute_agent.virt.libvirt.imagecache import LibvirtImages
from compute_agent.virt.libvirt.rebuild import LibvirtRebuild
from compute_agent.virt.libvirt.rescue import LibvirtRescue
from compute_agent.virt.libvirt.volumes.concern import LibvirtVolumes
from compute_agent.virt.virtapi import VirtAPI

__all__ = ["LibvirtDriver"]


class LibvirtDriver(
    LibvirtColdMigration,
    LibvirtRescue,
    LibvirtRebuild,
    LibvirtVolumes,
    LibvirtDisks,
    LibvirtImages,
    LibvirtHost,
):
    """QEMU guests, with and without KVM, through libvirt.

    :param virtapi: what the driver may ask of the agent
    """

    def __init__(self, virtapi: VirtAPI) -> None:
        super().__init__(virtapi)
        self.capabilities = dict(type(self).capabilities)

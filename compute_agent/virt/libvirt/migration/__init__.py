# SPDX-License-Identifier: Apache-2.0
"""Live migration: the members of the contract, at both ends.

Who owns the guest is not decided here but by the handshake of the two agents (model/handshake.py); these
members are what it has done. So each looks at what is there and may be repeated, and none ends a guest that
may be the only copy: at the destination what never ran is dropped, at the source what was given away.
"""

from compute_agent.virt.libvirt.migration.destination import LibvirtMigrationDestination
from compute_agent.virt.libvirt.migration.source import LibvirtMigrationSource

__all__ = ["LibvirtMigration"]


class LibvirtMigration(LibvirtMigrationSource, LibvirtMigrationDestination):
    """The live migration concern."""

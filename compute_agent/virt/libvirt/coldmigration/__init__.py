# SPDX-License-Identifier: Apache-2.0
"""Cold migration and resize: a guest is off while its files go to another host.

They go over QEMU's NBD with TLS and a key of one migration (`export` at the destination; `relay`, `nbd` and
`sending` at the source); who has the guest is decided by the handshake of the two agents
(model/handshake.py). See docs/decisions/027.
"""

from compute_agent.virt.libvirt.coldmigration.destination import LibvirtColdDestination
from compute_agent.virt.libvirt.coldmigration.source import LibvirtColdSource

__all__ = ["LibvirtColdMigration"]


class LibvirtColdMigration(LibvirtColdSource, LibvirtColdDestination):
    """The cold migration concern, above that of the live one."""

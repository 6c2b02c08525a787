# SPDX-License-Identifier: Apache-2.0
"""What may not be spawned: what another domain has taken."""

import libvirt

from compute_agent.virt.libvirt import faults


def who_has(connection: libvirt.virConnect, wanted: str, name: str) -> str | None:
    """Return what is taken by a domain that is there, ``uuid`` or ``name``; None if both are free.

    In a native thread.
    """
    for what, look_up, value in (
        ("uuid", connection.lookupByUUIDString, wanted),
        ("name", connection.lookupByName, name),
    ):
        try:
            look_up(value)
        except libvirt.libvirtError as error:
            if faults.code(error) != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        else:
            return what
    return None

# SPDX-License-Identifier: Apache-2.0
"""What may not be spawned: what this release can't honour, and what another domain has taken."""

from collections.abc import Mapping
from typing import Any

import libvirt

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import faults


def refuse_what_is_to_come(instance: Instance, extras: Mapping[str, Any]) -> None:
    """Refuse what this release would have to ignore: a guest that silently lacks it is worse than none.

    :raises UnsupportedOperation: naming it
    """
    asked = {
        "rules in security_groups": any(group.rules for group in instance.security_groups),
    }
    found = [name for name, value in asked.items() if value]
    if found:
        raise errors.UnsupportedOperation(
            f"this release of the driver does not offer: {', '.join(found)}",
            hint="leave it out; get_version tells what this agent can do",
        )


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

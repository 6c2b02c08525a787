# SPDX-License-Identifier: Apache-2.0
"""The networks of this host, as far as VIFs name them. These functions run in native threads."""

import os
from collections.abc import Iterable

from compute_agent.model import errors
from compute_agent.model.vif import Vif, VifType

_INTERFACES = "/sys/class/net"


def check(vifs: Iterable[Vif]) -> None:
    """Say whether every bridge that ``vifs`` name is here.

    :raises NetworkUnavailable: naming those that are not
    """
    missing = [vif for vif in vifs if vif.type is VifType.BRIDGE and vif.bridge and not is_bridge(vif.bridge)]
    if missing:
        named = ", ".join(f"{vif.bridge} (VIF {vif.id})" for vif in missing)
        raise errors.NetworkUnavailable(f"no such bridge on this host: {named}")


def is_interface(name: str) -> bool:
    """Return whether there is a network interface of that name."""
    return os.path.exists(os.path.join(_INTERFACES, name))


def is_bridge(name: str) -> bool:
    """Return whether there is a bridge of that name."""
    return os.path.isdir(os.path.join(_INTERFACES, name, "bridge"))

# SPDX-License-Identifier: Apache-2.0
"""The libvirt driver: QEMU guests through libvirt.

The half that computes (declared XML types, the designer, names and paths, the description
in a domain's metadata) needs no libvirt and can be imported without it; the half that
acts needs libvirt's binding. So the driver's class is looked up when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.driver import LibvirtDriver

__all__ = ["LibvirtDriver"]


def __getattr__(name: str) -> Any:
    if name != "LibvirtDriver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compute_agent.virt.libvirt.driver import LibvirtDriver

    return LibvirtDriver

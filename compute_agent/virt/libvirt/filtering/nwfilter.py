# SPDX-License-Identifier: Apache-2.0
"""Libvirt's network filters: putting them in and taking them out. These functions run in native threads.

Libvirt keeps filters over restarts, applies a changed one at once to the guests that use it, and starts no
guest whose filter is missing.
"""

import contextlib
import os
from collections.abc import Iterable

import libvirt

from compute_agent.model import errors
from compute_agent.virt.libvirt import faults, networks
from compute_agent.virt.libvirt.filtering.design import PREFIX, Filter, prefix_of

_SWITCHES = "/proc/sys/net/bridge"
_NEEDED = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
_UUID_LENGTH = 36


def check(connection: libvirt.virConnect, follows_connections: bool) -> None:
    """Say whether this host can filter.

    :param follows_connections: there are rules about who may talk to whom, which iptables has to see
    :raises UnsupportedOperation: if it can't; a filter that lets everything through is worse than none
    """
    try:
        connection.numOfNWFilters()
    except libvirt.libvirtError as error:
        if faults.code(error) != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        raise errors.UnsupportedOperation(
            "this libvirt has no network filters",
            hint="use qemu:///system, or VIFs with port_filter=false, or [libvirt] filter_driver = none",
        ) from None
    off = [name for name in _NEEDED if follows_connections and _read(name) != "1"]
    if off:
        raise errors.UnsupportedOperation(
            f"iptables does not see what goes over bridges: {', '.join(off)} is not 1",
            hint="modprobe br_netfilter; sysctl net.bridge.bridge-nf-call-iptables=1 "
            "net.bridge.bridge-nf-call-ip6tables=1",
        )


def _read(switch: str) -> str:
    try:
        with open(os.path.join(_SWITCHES, switch)) as file:
            return file.read().strip()
    except OSError:
        return ""


def define(connection: libvirt.virConnect, wanted: Iterable[Filter], follows_connections: bool) -> None:
    """Put filters in, or bring them up to date. What is as it should be stays untouched.

    Raises as :func:`check`.
    """
    check(connection, follows_connections)
    for one in wanted:
        connection.nwfilterDefineXML(one.xml)


def remove(connection: libvirt.virConnect, instance_uuid: str) -> None:
    """Remove all filters of an instance. What is not there is success.

    :raises DeviceBusy: if a guest still uses one
    """
    for found in _ours(connection):
        if found.name().startswith(prefix_of(instance_uuid)):
            _drop_stale_bindings(connection, found.name())
            _undefine(found)


def filtered(connection: libvirt.virConnect) -> set[str]:
    """Return the uuids of the instances that have filters here."""
    start = len(PREFIX) + 1
    return {found.name()[start : start + _UUID_LENGTH] for found in _ours(connection)}


def _ours(connection: libvirt.virConnect) -> list[libvirt.virNWFilter]:
    try:
        there = connection.listAllNWFilters(0)
    except libvirt.libvirtError as error:
        if faults.code(error) != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return []  # a libvirt that keeps no filters has none
    return [found for found in there if found.name().startswith(f"{PREFIX}-")]


def _drop_stale_bindings(connection: libvirt.virConnect, name: str) -> None:
    """Forget that a filter is used by an interface which is gone.

    A libvirtd that is killed while a guest arrives ends the guest when it is back, but not its binding.
    """
    for binding in connection.listAllNWFilterBindings(0):
        if binding.filterName() == name and not networks.is_interface(binding.portDev()):
            with contextlib.suppress(
                libvirt.libvirtError
            ):  # somebody else was faster; else the next call tells
                binding.delete()


def _undefine(found: libvirt.virNWFilter) -> None:
    try:
        found.undefine()
    except libvirt.libvirtError as error:
        if faults.code(error) == libvirt.VIR_ERR_OPERATION_INVALID:
            raise errors.DeviceBusy(f"a guest uses the filter {found.name()}") from None
        if faults.code(error) != libvirt.VIR_ERR_NO_NWFILTER:
            raise

# SPDX-License-Identifier: Apache-2.0
"""A guest's network as its cloud-init reads it: OpenStack's network_data.json, NoCloud's network-config.

An address with a prefix length (``192.0.2.5/24``) is one that the guest sets by itself. One without is what
the network hands out (DHCP, a router's advertisement), since no guest could set it; so is no address at all.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from compute_agent.model import errors
from compute_agent.model.vif import Vif

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def network_data(vifs: Sequence[Vif]) -> dict[str, Any]:
    """Return what ``network_data.json`` says.

    :raises InvalidArguments: if a fixed ip is no address
    """
    return {
        "links": [_link(number, vif) for number, vif in enumerate(vifs)],
        "networks": list(_networks(vifs)),
        "services": [],
    }


def network_config(vifs: Sequence[Vif]) -> dict[str, Any]:
    """Return NoCloud's ``network-config``, version 2.

    :raises InvalidArguments: if a fixed ip is no address
    """
    return {"version": 2, "ethernets": {_name(number): _ethernet(vif) for number, vif in enumerate(vifs)}}


def _name(number: int) -> str:
    return f"interface{number}"


def _link(number: int, vif: Vif) -> dict[str, Any]:
    return {
        "id": _name(number),
        "vif_id": vif.id,
        "type": "phy",
        "ethernet_mac_address": vif.address.lower(),
        "mtu": vif.mtu,
    }


def _networks(vifs: Sequence[Vif]) -> Iterator[dict[str, Any]]:
    count = 0
    for number, vif in enumerate(vifs):
        for network in [*map(_static, _own(vif)), *_handed_out(vif)]:
            yield {"id": f"network{count}", "link": _name(number), "network_id": vif.id, **network}
            count += 1


def _static(address: Address) -> dict[str, Any]:
    return {
        "type": f"ipv{address.version}",
        "ip_address": str(address.ip),
        "netmask": str(address.netmask),
        "routes": [],
    }


def _handed_out(vif: Vif) -> list[dict[str, Any]]:
    types = {4: "ipv4_dhcp", 6: "ipv6_slaac"}
    return [{"type": types[version]} for version in _versions_handed_out(vif)]


def _ethernet(vif: Vif) -> dict[str, Any]:
    said: dict[str, Any] = {"match": {"macaddress": vif.address.lower()}}
    if own := _own(vif):
        said["addresses"] = [address.with_prefixlen for address in own]
    handed_out = _versions_handed_out(vif)
    if 4 in handed_out:
        said["dhcp4"] = True
    if 6 in handed_out:
        said["accept-ra"] = True
    if vif.mtu is not None:
        said["mtu"] = vif.mtu
    return said


def _own(vif: Vif) -> list[Address]:
    """The addresses that the guest sets by itself."""
    return [_address(vif, text) for text in vif.fixed_ips if "/" in text]


def _versions_handed_out(vif: Vif) -> list[int]:
    """Which versions of IP the network configures."""
    given = {_address(vif, text).version for text in vif.fixed_ips if "/" not in text}
    return sorted(given) if vif.fixed_ips else [4]


def _address(vif: Vif, text: str) -> Address:
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        raise errors.InvalidArguments(f"VIF {vif.id}: {text[:64]} is not an IP address") from None

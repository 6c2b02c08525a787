# SPDX-License-Identifier: Apache-2.0
"""A VIF: one network interface of an instance, with what its host needs to plug it."""

import enum
import ipaddress
from typing import Annotated

import msgspec
from msgspec import Meta

from compute_agent.model import errors
from compute_agent.model.fields import Identifier, InterfaceName, IpAddress, MacAddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class VifType(enum.StrEnum):
    """How the interface reaches the network."""

    BRIDGE = "bridge"
    OVS = "ovs"
    MACVTAP = "macvtap"
    ETHERNET = "ethernet"


class VifModel(enum.StrEnum):
    """The device that the guest sees."""

    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


class Vif(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One interface. ``address`` is its MAC address, ``mtu`` in bytes."""

    id: Identifier
    address: MacAddress
    type: VifType = VifType.BRIDGE
    bridge: InterfaceName | None = None
    mtu: Annotated[int, Meta(ge=68, le=65535)] | None = None
    fixed_ips: list[IpAddress] = []
    model: VifModel = VifModel.VIRTIO
    port_filter: bool = True
    tag: Identifier | None = None

    @property
    def addresses(self) -> list[Address]:
        """``fixed_ips`` without their prefix lengths.

        :raises InvalidArguments: if one is no address
        """
        try:
            return [ipaddress.ip_interface(address).ip for address in self.fixed_ips]
        except ValueError as error:
            raise errors.InvalidArguments(f"VIF {self.id}: fixed_ips: {error}") from None

# SPDX-License-Identifier: Apache-2.0
"""Security groups: which packets reach a guest, and leave it. The names are those of Neutron's rules.

What no rule of an instance's groups lets in stays outside. What leaves the guest is free until one of the
groups has an egress rule: then only what such rules let out.
"""

import enum
import ipaddress
from typing import Annotated

import msgspec
from msgspec import Meta

from compute_agent.model.fields import Identifier, IpAddress

PROVIDER = "provider"
"""The id under which the provider's rules are kept; no group has it."""


class Direction(enum.StrEnum):
    """Which way the packets go, from the guest's point of view."""

    INGRESS = "ingress"
    EGRESS = "egress"


class EtherType(enum.StrEnum):
    """Whose packets they are."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class RuleAction(enum.StrEnum):
    """What becomes of a packet."""

    ACCEPT = "accept"
    DROP = "drop"


class RuleProtocol(enum.StrEnum):
    """What the packets carry."""

    TCP = "tcp"
    UDP = "udp"
    UDPLITE = "udplite"
    SCTP = "sctp"
    ICMP = "icmp"
    ICMPV6 = "icmpv6"
    ESP = "esp"
    AH = "ah"
    IGMP = "igmp"


_ICMP = frozenset({RuleProtocol.ICMP, RuleProtocol.ICMPV6})
_PORTED = frozenset({RuleProtocol.TCP, RuleProtocol.UDP, RuleProtocol.UDPLITE, RuleProtocol.SCTP})
_OF_ONE = {
    RuleProtocol.ICMP: EtherType.IPV4,
    RuleProtocol.IGMP: EtherType.IPV4,
    RuleProtocol.ICMPV6: EtherType.IPV6,
}
"""What these are about where a rule does not say it. ICMP in IPv6, if it says so, is ICMPv6."""
_ICMP_LIMIT = 255
Port = Annotated[int, Meta(ge=0, le=65535)]


class SecurityGroupRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule. What it does not name it does not ask for.

    It lets packets through. Of ICMP the ports are type and code.
    """

    direction: Direction = Direction.INGRESS
    ethertype: EtherType | None = None
    protocol: RuleProtocol | None = None
    port_range_min: Port | None = None
    port_range_max: Port | None = None
    remote_ip_prefix: IpAddress | None = None
    remote_group_id: Identifier | None = None

    def __post_init__(self) -> None:
        if self.remote_ip_prefix is not None and self.remote_group_id is not None:
            raise ValueError("a rule has remote_ip_prefix or remote_group_id, not both")
        self._check_ports()
        told = {self.ethertype, _version(self.remote_ip_prefix)} - {None}
        if self.protocol in (RuleProtocol.ICMPV6, RuleProtocol.IGMP):
            told.add(_OF_ONE[self.protocol])
        if len(told) > 1:
            raise ValueError("ethertype, protocol and remote_ip_prefix of a rule are not of one kind")

    def _check_ports(self) -> None:
        first, last = self.port_range_min, self.port_range_max
        if first is None and last is None:
            return
        if self.protocol in _ICMP:
            if first is None or max(first, last or 0) > _ICMP_LIMIT:
                raise ValueError("type and code of ICMP are 0 to 255, and a code needs a type")
        elif self.protocol not in _PORTED:
            raise ValueError(f"ports need one of the protocols {', '.join(sorted(_PORTED))}")
        elif first is None or (last is not None and last < first):
            raise ValueError("port_range_max needs a port_range_min that is not above it")

    @property
    def ethertypes(self) -> tuple[EtherType, ...]:
        """Whose packets it is about: of both, unless it says so, or its prefix or protocol does."""
        told = self.ethertype or _version(self.remote_ip_prefix)
        if told is None and self.protocol is not None:
            told = _OF_ONE.get(self.protocol)
        return (told,) if told else tuple(EtherType)


class ProviderRule(SecurityGroupRule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule of the provider's: it wins over every group's, and drops unless it says otherwise."""

    action: RuleAction = RuleAction.DROP


def _version(prefix: str | None) -> EtherType | None:
    """Return of which kind a prefix or an address is. Raises ValueError if it is none."""
    if prefix is None:
        return None
    return EtherType.IPV6 if ipaddress.ip_interface(prefix).version == 6 else EtherType.IPV4


class SecurityGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named set of filter rules. Without rules here, those told by `refresh_security_group_rules` hold."""

    id: Identifier
    rules: list[SecurityGroupRule] = []

    def __post_init__(self) -> None:
        check_id(self.id)


def check_id(group_id: str) -> None:
    """Raise ValueError if no group may have this id."""
    if group_id == PROVIDER:
        raise ValueError(
            f"no group has the id {PROVIDER}: refresh_provider_fw_rules tells the provider's rules"
        )


class GroupMember(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member of a group, on whichever host."""

    address: IpAddress
    instance_uuid: Identifier | None = None

    def __post_init__(self) -> None:
        _version(self.address)

# SPDX-License-Identifier: Apache-2.0
"""From a VIF and the rules of its instance to libvirt's filter: a pure function.

A filter has two halves. The first (ebtables) is about who the guest says it is: it sends from its own MAC
address, from its own IP addresses if it has been given any, and it is neither a DHCP server nor a router
that advertises itself. A guest that was given addresses of one kind has no traffic of the other kind. The
second half (iptables, which follows connections) is about who may talk to whom: the provider's rules first,
then those of the instance's groups. A guest of no group has only the provider's.

Rules are told apart by their priority: what is lower is asked first, and the first that fits decides. Each
rule costs libvirt some calls of iptables at every start of the guest, so none is there without need.
"""

import dataclasses
import enum
import ipaddress
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

from lxml import etree

from compute_agent.model.security_group import (
    PROVIDER,
    Direction,
    EtherType,
    RuleProtocol,
    SecurityGroupRule,
)
from compute_agent.model.vif import Vif
from compute_agent.virt.filtering import AppliedRule
from compute_agent.virt.libvirt.paths import tap_name

PREFIX = "compute-agent"
_SPACE = uuid.UUID("8f0e4a5c-38c2-4f3b-9f43-0c4f7f0a3d7e")
_DHCP_SERVER, _DHCP_CLIENT = "67", "68"
_DHCP6_SERVER, _DHCP6_CLIENT = "547", "546"
_ROUTER_ADVERTISEMENT = "134"
_LINK_LOCAL = {"srcipaddr": "fe80::", "srcipmask": "10"}
_HEARD = ("130", "134", "135", "136")
_SAID = ("131", "132", "133", "135", "136", "143")
"""The types of ICMPv6 without which there is no IPv6: multicast groups, routers, neighbours. No connection
is made by them, so none is followed."""
_WAYS = {Direction.INGRESS: "in", Direction.EGRESS: "out"}
_ICMP = (RuleProtocol.ICMP, RuleProtocol.ICMPV6)


class Priority(enum.IntEnum):
    """The order of the rules."""

    OWN_MAC = -900
    NO_SERVER = -850
    OWN_ADDRESS = -800
    NO_OTHER_ADDRESS = -700
    PROVIDER = 100
    NEEDED = 200
    GROUP = 500
    FREE = 600
    REST = 900


@dataclasses.dataclass(frozen=True)
class Filter:
    """A network filter of libvirt's."""

    name: str
    xml: str


def name_of(instance_uuid: str, vif: Vif) -> str:
    """Return the name of a VIF's filter, which all hosts give it."""
    return f"{prefix_of(instance_uuid)}{tap_name(vif.id)}"


def prefix_of(instance_uuid: str) -> str:
    """Return how the names of an instance's filters begin."""
    return f"{PREFIX}-{instance_uuid}-"


def design(instance_uuid: str, vif: Vif, rules: Sequence[AppliedRule], *, grouped: bool) -> Filter:
    """Return a VIF's filter.

    :param rules: all that hold for the instance
    :param grouped: it is of a security group: what none of the rules lets through is dropped
    :raises InvalidArguments: if one of ``fixed_ips`` is no address
    """
    name = name_of(instance_uuid, vif)
    root = etree.Element("filter", name=name, chain="root")
    etree.SubElement(root, "uuid").text = str(uuid.uuid5(_SPACE, name))
    mac = vif.address.lower()
    root.append(_rule("drop", "out", Priority.OWN_MAC, "mac", {"match": "no", "srcmacaddr": mac}))
    given = vif.addresses
    for kind, parts in _KINDS.items():
        own = [str(address) for address in given if address.version == parts.version]
        if given and not own:
            root.append(_rule("drop", "inout", Priority.NO_OTHER_ADDRESS, parts.frames))
            continue
        root.extend(parts.no_server())
        root.extend(parts.only_from(own, mac) if own else ())
        root.extend(_connections(kind, rules, grouped))
    return Filter(name, etree.tostring(root, encoding="unicode", pretty_print=True))


def _rule(
    action: str,
    way: str,
    priority: Priority,
    what: str,
    fields: Mapping[str, str] | None = None,
    *,
    followed: bool = True,
) -> etree._Element:
    """Return a rule about packets of the protocol ``what`` that have these ``fields``.

    :param followed: a connection that it lets through has its answers let through
    """
    rule = etree.Element("rule", action=action, direction=way, priority=str(int(priority)))
    if not followed:
        rule.set("statematch", "false")
    etree.SubElement(rule, what, dict(fields or {}))
    return rule


# --- who it is -------------------------------------------------------------------------------------


def _no_ipv4_server() -> Iterator[etree._Element]:
    served = {"protocol": "udp", "srcportstart": _DHCP_SERVER, "dstportstart": _DHCP_CLIENT}
    yield _rule("drop", "out", Priority.NO_SERVER, "ip", served)


def _no_ipv6_server() -> Iterator[etree._Element]:
    served = {"protocol": "udp", "srcportstart": _DHCP6_SERVER, "dstportstart": _DHCP6_CLIENT}
    yield _rule("drop", "out", Priority.NO_SERVER, "ipv6", served)
    advertised = {"protocol": "icmpv6", "type": _ROUTER_ADVERTISEMENT}
    yield _rule("drop", "out", Priority.NO_SERVER, "ipv6", advertised)


def _own_ipv4(addresses: list[str], mac: str) -> Iterator[etree._Element]:
    for address in (*addresses, "0.0.0.0"):  # that is whoever asks whether an address is taken
        own = {"arpsrcmacaddr": mac, "arpsrcipaddr": address}
        yield _rule("accept", "out", Priority.OWN_ADDRESS, "arp", own)
    yield _rule("drop", "out", Priority.NO_OTHER_ADDRESS, "arp")
    for address in addresses:
        yield _rule("accept", "out", Priority.OWN_ADDRESS, "ip", {"srcipaddr": address})
    asks = {"protocol": "udp", "srcipaddr": "0.0.0.0"}
    asks |= {"srcportstart": _DHCP_CLIENT, "dstportstart": _DHCP_SERVER}
    yield _rule("accept", "out", Priority.OWN_ADDRESS, "ip", asks)
    yield _rule("drop", "out", Priority.NO_OTHER_ADDRESS, "ip")


def _own_ipv6(addresses: list[str], mac: str) -> Iterator[etree._Element]:
    for address in (*addresses, "::"):
        yield _rule("accept", "out", Priority.OWN_ADDRESS, "ipv6", {"srcipaddr": address})
    yield _rule("accept", "out", Priority.OWN_ADDRESS, "ipv6", _LINK_LOCAL)
    yield _rule("drop", "out", Priority.NO_OTHER_ADDRESS, "ipv6")


# --- who may talk to whom --------------------------------------------------------------------------


def _connections(kind: EtherType, rules: Sequence[AppliedRule], grouped: bool) -> Iterator[etree._Element]:
    """Return the rules about packets of one kind."""
    for applied in rules:
        yield from _applied(applied, kind)
    if not grouped:
        return
    ours = [applied for applied in rules if applied.group != PROVIDER]
    free = not any(applied.rule.direction is Direction.EGRESS for applied in ours)
    yield from _KINDS[kind].needed(free)
    everything = _protocol(None, kind)
    if free:
        yield _rule("accept", "out", Priority.FREE, everything)
    yield _rule("drop", "inout", Priority.REST, everything)


def _needed_ipv4(free: bool) -> Iterator[etree._Element]:
    yield from _dhcp("udp", _DHCP_SERVER, _DHCP_CLIENT, free)


def _needed_ipv6(free: bool) -> Iterator[etree._Element]:
    yield from _dhcp("udp-ipv6", _DHCP6_SERVER, _DHCP6_CLIENT, free)
    for kind in _HEARD:
        yield _rule("accept", "in", Priority.NEEDED, "icmpv6", {"type": kind}, followed=False)
    if free:
        yield _rule("accept", "out", Priority.FREE, "icmpv6", followed=False)
        return
    for kind in _SAID:
        yield _rule("accept", "out", Priority.NEEDED, "icmpv6", {"type": kind}, followed=False)


def _dhcp(what: str, server: str, client: str, free: bool) -> Iterator[etree._Element]:
    """A server answers to everybody, which belongs to no connection."""
    answer = {"srcportstart": server, "dstportstart": client}
    yield _rule("accept", "in", Priority.NEEDED, what, answer, followed=False)
    if not free:
        question = {"srcportstart": client, "dstportstart": server}
        yield _rule("accept", "out", Priority.NEEDED, what, question, followed=False)


def _applied(applied: AppliedRule, kind: EtherType) -> Iterator[etree._Element]:
    """Return a rule for each address at the other end."""
    rule = applied.rule
    if kind not in rule.ethertypes:
        return
    priority = Priority.PROVIDER if applied.group == PROVIDER else Priority.GROUP
    what = _protocol(rule.protocol, kind)
    for remote in _remotes(applied, kind):
        yield _rule(applied.action, _WAYS[rule.direction], priority, what, remote | _wanted(rule))


def _remotes(applied: AppliedRule, kind: EtherType) -> list[dict[str, str]]:
    if applied.remotes is None:
        return [{}]
    end = "src" if applied.rule.direction is Direction.INGRESS else "dst"
    networks = [ipaddress.ip_interface(remote).network for remote in applied.remotes]
    return [
        {f"{end}ipaddr": str(network.network_address), f"{end}ipmask": str(network.prefixlen)}
        for network in networks
        if network.version == _KINDS[kind].version
    ]


def _protocol(protocol: RuleProtocol | None, kind: EtherType) -> str:
    if kind is EtherType.IPV4:
        return protocol or "all"
    return "icmpv6" if protocol in _ICMP else f"{protocol or 'all'}-ipv6"


def _wanted(rule: SecurityGroupRule) -> dict[str, str]:
    """Return the ports, or type and code."""
    names = ("type", "code") if rule.protocol in _ICMP else ("dstportstart", "dstportend")
    values = (rule.port_range_min, rule.port_range_max)
    return {name: str(value) for name, value in zip(names, values, strict=True) if value is not None}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What is particular to IPv4 or IPv6.

    :param frames: libvirt's name for all of it on the wire
    """

    version: int
    frames: str
    no_server: Callable[[], Iterator[etree._Element]]
    only_from: Callable[[list[str], str], Iterator[etree._Element]]
    needed: Callable[[bool], Iterator[etree._Element]]


_KINDS = {
    EtherType.IPV4: _Kind(4, "ip", _no_ipv4_server, _own_ipv4, _needed_ipv4),
    EtherType.IPV6: _Kind(6, "ipv6", _no_ipv6_server, _own_ipv6, _needed_ipv6),
}

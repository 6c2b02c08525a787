# SPDX-License-Identifier: Apache-2.0
"""Which addresses a name stands for, and which of them the agent may be sent to.

A sender chooses the url, and a stranger's name server chooses the address: either could
point at the host itself, or at the metadata service beside it. So the addresses are
looked up here, judged, and then connected to as they are; the name is not looked up again.
"""

import _socket
import ipaddress
from collections.abc import Sequence
from typing import Any

_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
"""Metadata services of clouds that are not at a link-local address."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")

Address = tuple[int, Any]
"""A socket's family, and what its ``connect`` takes."""


def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of ``host``. In a native thread: the C library asks whoever is configured.

    :raises OSError: if it has none
    """
    found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))


def permitted(found: Sequence[Address], *, inner: bool) -> list[Address]:
    """Return those of ``found`` that may be connected to.

    :param inner: whether the host's own and its link's addresses are among them
    """
    return [one for one in found if inner or not is_inner(str(one[1][0]))]


def is_inner(text: str) -> bool:
    """Return whether an address is the host's own, its link's, a metadata service's, or nobody's."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return True
    embedded = _embedded(address)
    if embedded is not None:
        return is_inner(str(embedded))
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or address in _METADATA
        or (address.version == 4 and (address.packed[0] == 0 or address.packed[0] >= 240))
    )


def names_inner(host: str) -> bool:
    """Return whether ``host`` is by itself, without asking anybody, such an address or `localhost`."""
    if host.rstrip(".").lower() in _LOCAL_NAMES:
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return is_inner(host)


def _embedded(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one stands for, if it does."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None

# SPDX-License-Identifier: Apache-2.0
"""Rules of security groups: what they mean, and what is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from compute_agent.model.arguments import RefreshRules
from compute_agent.model.security_group import (
    EtherType,
    GroupMember,
    ProviderRule,
    SecurityGroup,
    SecurityGroupRule,
)

IPV4, IPV6 = EtherType.IPV4, EtherType.IPV6


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ({}, [IPV4, IPV6]),
        ({"protocol": "tcp", "port_range_min": 22}, [IPV4, IPV6]),
        ({"ethertype": "IPv6"}, [IPV6]),
        ({"remote_ip_prefix": "10.0.0.0/8"}, [IPV4]),
        ({"remote_ip_prefix": "fd00::1"}, [IPV6]),
        ({"protocol": "icmp"}, [IPV4]),
        ({"protocol": "icmp", "ethertype": "IPv6"}, [IPV6]),
        ({"protocol": "icmpv6", "port_range_min": 128, "port_range_max": 0}, [IPV6]),
        ({"protocol": "igmp"}, [IPV4]),
        ({"protocol": "icmp", "remote_ip_prefix": "fd00::/64"}, [IPV6]),
    ],
)
def test_whose_packets_a_rule_is_about(rule: dict[str, Any], kinds: list[EtherType]) -> None:
    assert list(msgspec.convert(rule, SecurityGroupRule).ethertypes) == kinds


@pytest.mark.parametrize(
    "rule",
    [
        {"port_range_min": 22},
        {"protocol": "esp", "port_range_min": 22},
        {"protocol": "tcp", "port_range_max": 22},
        {"protocol": "tcp", "port_range_min": 23, "port_range_max": 22},
        {"protocol": "tcp", "port_range_min": 65536},
        {"protocol": "tcp", "port_range_min": "22"},
        {"protocol": "icmp", "port_range_max": 0},
        {"protocol": "icmp", "port_range_min": 256},
        {"protocol": "icmpv6", "ethertype": "IPv4"},
        {"protocol": "igmp", "ethertype": "IPv6"},
        {"protocol": "6"},
        {"protocol": "tcp' /><drop"},
        {"direction": "inout"},
        {"remote_ip_prefix": "10.0.0.0/33"},
        {"remote_ip_prefix": "10.0.0.256"},
        {"remote_ip_prefix": "any"},
        {"remote_ip_prefix": "10.0.0.0/8", "ethertype": "IPv6"},
        {"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": "db"},
        {"remote_group_id": "../etc"},
        {"action": "drop"},
        {"port": 22},
        "tcp",
    ],
    ids=str,
)
def test_what_is_no_rule_is_refused(rule: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(rule, SecurityGroupRule)


def test_a_providers_rule_drops_unless_it_says_otherwise() -> None:
    assert msgspec.convert({}, ProviderRule).action == "drop"
    assert msgspec.convert({"action": "accept"}, ProviderRule).action == "accept"


def test_no_group_is_the_providers() -> None:
    """Else its rules, which drop, would be told as a group's, which let in."""
    with pytest.raises(msgspec.ValidationError, match="provider"):
        msgspec.convert({"id": "provider"}, SecurityGroup)
    with pytest.raises(msgspec.ValidationError, match="provider"):
        msgspec.convert({"group_id": "provider", "rules": []}, RefreshRules)


@pytest.mark.parametrize("address", ["10.0.0", "10.0.0.1/99", "fd00::g", ""])
def test_what_is_no_members_address_is_refused(address: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"address": address}, GroupMember)

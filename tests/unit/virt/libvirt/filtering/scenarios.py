# SPDX-License-Identifier: Apache-2.0
"""Interfaces and the rules that hold for them, one for each golden file."""

from __future__ import annotations

from collections.abc import Callable

from compute_agent.model.security_group import (
    PROVIDER,
    Direction,
    EtherType,
    ProviderRule,
    RuleAction,
    RuleProtocol,
    SecurityGroupRule,
)
from compute_agent.model.vif import Vif
from compute_agent.virt.filtering import AppliedRule
from compute_agent.virt.libvirt.filtering import design

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
VIF = "3f2e1bae-ec7b-416c-9634-6928eb456efd"
TCP, UDP, ICMP = RuleProtocol.TCP, RuleProtocol.UDP, RuleProtocol.ICMP


def vif(*addresses: str) -> Vif:
    """An interface with these addresses."""
    return Vif(id=VIF, address="52:54:00:AA:BB:01", bridge="br0", fixed_ips=list(addresses))


def group(remotes: list[str] | None = None, **rule: object) -> AppliedRule:
    """A rule of the group `web`."""
    return AppliedRule("web", SecurityGroupRule(**rule), remotes)  # type: ignore[arg-type]


def provided(**rule: object) -> AppliedRule:
    """A rule of the provider's."""
    return AppliedRule(PROVIDER, ProviderRule(**rule), None)  # type: ignore[arg-type]


def _made(on: Vif, *rules: AppliedRule, grouped: bool = True) -> str:
    return design.design(UUID, on, rules, grouped=grouped).xml


SCENARIOS: dict[str, Callable[[], str]] = {
    "no_group": lambda: _made(vif("10.0.0.5"), grouped=False),
    "no_address": lambda: _made(vif(), grouped=False),
    "closed": lambda: _made(vif("10.0.0.5/24", "10.0.0.6")),
    "both_kinds": lambda: _made(
        vif("10.0.0.5", "fd00::5"),
        group(protocol=TCP, port_range_min=80, port_range_max=81),
        group(protocol=TCP, port_range_min=22, ethertype=EtherType.IPV4),
        group(protocol=ICMP, port_range_min=8, port_range_max=0),
        group(protocol=ICMP, ethertype=EtherType.IPV6),
        group(["10.1.0.0/16"], remote_ip_prefix="10.1.0.0/16"),
        group(["10.0.0.9", "fd00::9/64"], remote_group_id="db"),
        group([], protocol=UDP, remote_group_id="nobody"),
    ),
    "egress": lambda: _made(
        vif("fd00::5"),
        group(["fd00:1::/64"], direction=Direction.EGRESS, protocol=UDP, port_range_min=53),
        group(protocol=TCP),
    ),
    "provider": lambda: _made(
        vif("10.0.0.5"),
        provided(protocol=TCP, port_range_min=25, direction=Direction.EGRESS),
        provided(protocol=TCP, port_range_min=161, action=RuleAction.ACCEPT),
        group(protocol=TCP),
    ),
}

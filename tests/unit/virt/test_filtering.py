# SPDX-License-Identifier: Apache-2.0
"""Which rules hold for an instance, whatever driver applies them."""

from __future__ import annotations

import pytest

from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.model.security_group import (
    GroupMember,
    ProviderRule,
    RuleProtocol,
    SecurityGroup,
    SecurityGroupRule,
)
from compute_agent.virt import filtering
from compute_agent.virt.fake.virtapi import MemoryVirtAPI

SSH = SecurityGroupRule(protocol=RuleProtocol.TCP, port_range_min=22, remote_ip_prefix="10.0.0.0/8")
FROM_DB = SecurityGroupRule(remote_group_id="db")


@pytest.fixture
def agent() -> MemoryVirtAPI:
    return MemoryVirtAPI()


def instance(*groups: SecurityGroup) -> Instance:
    uuid = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
    return Instance(uuid=uuid, flavor=Flavor(vcpus=1, memory_mb=32), security_groups=list(groups))


def test_the_providers_rules_come_first_and_drop(agent: MemoryVirtAPI) -> None:
    agent.rules["provider"] = [ProviderRule()]
    found = filtering.rules_of(instance(SecurityGroup(id="web", rules=[SSH])), agent)
    assert [(one.group, one.action, one.remotes) for one in found] == [
        ("provider", "drop", None),
        ("web", "accept", ["10.0.0.0/8"]),
    ]


def test_rules_that_came_with_the_instance_hold_else_those_told_for_the_group(agent: MemoryVirtAPI) -> None:
    agent.rules["web"] = [FROM_DB]
    told = filtering.rules_of(instance(SecurityGroup(id="web")), agent)
    brought = filtering.rules_of(instance(SecurityGroup(id="web", rules=[SSH])), agent)
    assert [one.rule for one in told] == [FROM_DB] and [one.rule for one in brought] == [SSH]


def test_a_rule_that_names_a_group_lets_in_its_members_and_nobody_while_there_are_none(
    agent: MemoryVirtAPI,
) -> None:
    of_web = instance(SecurityGroup(id="web", rules=[FROM_DB]))
    assert filtering.rules_of(of_web, agent)[0].remotes == []
    agent.members["db"] = [GroupMember(address="10.0.0.9"), GroupMember(address="fd00::9")]
    assert filtering.rules_of(of_web, agent)[0].remotes == ["10.0.0.9", "fd00::9"]


def test_who_is_concerned(agent: MemoryVirtAPI) -> None:
    agent.rules["web"] = [FROM_DB]
    of_web = instance(SecurityGroup(id="web"))
    assert filtering.is_member(of_web, "web") and not filtering.is_member(of_web, "db")
    assert filtering.refers_to(of_web, "db", agent) and not filtering.refers_to(of_web, "web", agent)

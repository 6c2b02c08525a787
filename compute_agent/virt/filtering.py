# SPDX-License-Identifier: Apache-2.0
"""Which filter rules hold for an instance, for any driver: the provider's, then those of its groups.

A group's rules are those that came with the instance, or, if none did, those told for the group. Rules
that name a group let in its members, wherever they are.
"""

import dataclasses
from collections.abc import Sequence

from compute_agent.model.instance import Instance
from compute_agent.model.security_group import (
    PROVIDER,
    ProviderRule,
    RuleAction,
    SecurityGroup,
    SecurityGroupRule,
)
from compute_agent.virt.virtapi import VirtAPI


@dataclasses.dataclass(frozen=True)
class AppliedRule:
    """A rule as it holds for one instance.

    :param group: whose it is
    :param remotes: addresses or prefixes of those at the other end; None is anybody, an empty one nobody
    """

    group: str
    rule: SecurityGroupRule
    remotes: list[str] | None

    @property
    def action(self) -> RuleAction:
        """What it does."""
        return self.rule.action if isinstance(self.rule, ProviderRule) else RuleAction.ACCEPT


def rules_of(instance: Instance, virtapi: VirtAPI) -> list[AppliedRule]:
    """Return the rules that hold for an instance, in their order."""
    by_group = [(PROVIDER, virtapi.security_group_rules(PROVIDER))]
    by_group += [(group.id, rules_of_group(group, virtapi)) for group in instance.security_groups]
    return [AppliedRule(group, rule, _remotes(rule, virtapi)) for group, rules in by_group for rule in rules]


def rules_of_group(group: SecurityGroup, virtapi: VirtAPI) -> Sequence[SecurityGroupRule]:
    """Return a group's rules: those told for it, if none came with it."""
    return group.rules or virtapi.security_group_rules(group.id)


def is_member(instance: Instance, group_id: str) -> bool:
    """Return whether an instance is of a group."""
    return any(group.id == group_id for group in instance.security_groups)


def refers_to(instance: Instance, group_id: str, virtapi: VirtAPI) -> bool:
    """Return whether a rule for an instance names a group."""
    return any(applied.rule.remote_group_id == group_id for applied in rules_of(instance, virtapi))


def _remotes(rule: SecurityGroupRule, virtapi: VirtAPI) -> list[str] | None:
    if rule.remote_group_id is not None:
        return [member.address for member in virtapi.security_group_members(rule.remote_group_id)]
    return None if rule.remote_ip_prefix is None else [rule.remote_ip_prefix]

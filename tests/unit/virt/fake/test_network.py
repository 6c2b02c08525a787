# SPDX-License-Identifier: Apache-2.0
"""Interfaces and filters on the fake host."""

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.security_group import (
    GroupMember,
    ProviderRule,
    RuleProtocol,
    SecurityGroup,
    SecurityGroupRule,
)
from tests.unit.virt.fake.conftest import Host, make_instance, spawn, vif


def test_attach_and_detach_are_an_exact_pair(host: Host) -> None:
    instance = host.spawn()
    before = copy.deepcopy(host.driver.hypervisor.get(instance.uuid))
    plugged = dict(host.world.plugged[instance.uuid])
    extra = vif(60_000)
    for _ in range(2):
        host.driver.attach_interface(None, instance, None, extra)
        assert extra.id in host.driver.hypervisor.get(instance.uuid).nics
        assert len(host.world.plugged[instance.uuid]) == 2
    for _ in range(2):
        host.driver.detach_interface(None, instance, extra)
    assert host.driver.hypervisor.get(instance.uuid) == before
    assert host.world.plugged[instance.uuid] == plugged
    assert host.events == []


def test_an_address_is_given_once(host: Host) -> None:
    instance = host.spawn()
    twin = msgspec.structs.replace(instance.network_info[0], id="twin")
    with pytest.raises(errors.DeviceBusy):
        host.driver.attach_interface(None, instance, None, twin)
    assert "twin" not in host.world.plugged[instance.uuid]


def test_a_guest_that_holds_its_interface_keeps_it(host: Host) -> None:
    instance = host.spawn()
    own = instance.network_info[0]
    host.driver.hypervisor.held.add(own.id)
    with pytest.raises(errors.DeviceBusy):
        host.driver.detach_interface(None, instance, own)
    assert own.id in host.driver.hypervisor.get(instance.uuid).nics


def test_a_bridge_that_is_not_there_is_refused(host: Host, configure: Callable[..., None]) -> None:
    configure(bridges=["other"])
    with pytest.raises(errors.NetworkUnavailable):
        spawn(host.driver, make_instance())
    assert host.nothing_is_left()
    with pytest.raises(errors.NetworkUnavailable):
        host.driver.plug_vifs(make_instance(), [vif(1)])


def test_plugging_and_unplugging_are_a_pair(host: Host) -> None:
    instance = make_instance()
    for _ in range(2):
        host.driver.plug_vifs(instance, instance.network_info)
        assert list(host.world.plugged[instance.uuid]) == [instance.network_info[0].id]
    host.driver.unfilter_instance(instance, instance.network_info)
    for _ in range(2):
        host.driver.unplug_vifs(instance, instance.network_info)
        assert host.nothing_is_left()


SMTP = SecurityGroupRule(protocol=RuleProtocol.TCP, port_range_min=25)


def rules_of(host: Host, instance: Instance) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.world.filters[instance.uuid]
    return found


def test_the_providers_rules_come_first_and_members_are_followed(host: Host) -> None:
    host.virtapi.rules = {
        "provider": [ProviderRule(protocol=RuleProtocol.TCP, port_range_min=25)],
        "web": [SecurityGroupRule(remote_group_id="db")],
    }
    instance = host.spawn()
    assert [rule["group"] for rule in rules_of(host, instance)] == ["provider", "web"]
    host.virtapi.members["db"] = [GroupMember(address="10.0.0.9")]
    host.driver.refresh_security_group_members("db")
    assert rules_of(host, instance)[1]["remotes"] == ["10.0.0.9"]
    host.virtapi.rules["provider"] = []
    host.driver.refresh_provider_fw_rules()
    assert [rule["group"] for rule in rules_of(host, instance)] == ["web"]
    host.virtapi.rules["web"] = []
    host.driver.refresh_security_group_rules("web")
    assert rules_of(host, instance) == []


def test_a_group_that_is_not_the_instances_changes_nothing(host: Host) -> None:
    instance = host.spawn()
    host.virtapi.rules["mail"] = [SMTP]
    host.driver.refresh_security_group_rules("mail")
    assert rules_of(host, instance) == []


def test_an_instances_new_groups_are_applied(host: Host) -> None:
    instance = host.spawn()
    group = SecurityGroup(id="mail", rules=[SMTP])
    host.driver.refresh_instance_security_rules(msgspec.structs.replace(instance, security_groups=[group]))
    assert [rule["group"] for rule in rules_of(host, instance)] == ["mail"]
    assert rules_of(host, instance)[0]["rule"] == msgspec.to_builtins(SMTP)


def test_deferred_changes_are_applied_once_and_together(host: Host) -> None:
    instance = host.spawn()
    host.driver.filter_defer_apply_on()
    host.driver.filter_defer_apply_on()
    host.virtapi.rules["web"] = [SMTP]
    host.driver.refresh_security_group_rules("web")
    assert rules_of(host, instance) == []
    host.driver.filter_defer_apply_off()
    assert [rule["group"] for rule in rules_of(host, instance)] == ["web"]
    host.driver.filter_defer_apply_off()
    host.virtapi.rules["web"] = []
    host.driver.refresh_security_group_rules("web")
    assert rules_of(host, instance) == []


def test_filters_can_be_there_before_the_guest(host: Host) -> None:
    instance = make_instance()
    host.driver.ensure_filtering_rules_for_instance(instance, instance.network_info)
    assert instance.uuid in host.world.filters
    for _ in range(2):
        host.driver.unfilter_instance(instance, instance.network_info)
        assert host.nothing_is_left()


def test_counters_name_the_interface(host: Host) -> None:
    instance = host.spawn()
    (counter,) = host.driver.get_all_bw_counters([instance, make_instance()])
    assert (counter["uuid"], counter["mac_address"]) == (instance.uuid, instance.network_info[0].address)

# SPDX-License-Identifier: Apache-2.0
"""What the agent keeps of security groups, and what it has the driver apply."""

from __future__ import annotations

from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.store import groups
from compute_agent.store.database import Transaction
from tests.unit.house import House

SSH, HTTP = ({"protocol": "tcp", "port_range_min": port} for port in (22, 80))
VIF = {"id": "vif-1", "address": "52:54:00:00:00:01", "bridge": "br0"}


def spawn(house: House, *rules: dict[str, Any]) -> str:
    return house.spawn(network_info=[VIF], security_groups=[{"id": "web", "rules": list(rules)}])


def ports(house: House, uuid: str) -> list[int]:
    """The ports that the filters of a guest let in."""
    return [one["rule"]["port_range_min"] for one in house.driver.hypervisor.world.filters[uuid]]


def test_what_was_told_last_of_a_group_replaces_what_came_with_an_instance(house: House) -> None:
    one, other = spawn(house, SSH), spawn(house)
    assert (ports(house, one), ports(house, other)) == ([22], [])
    before = len(house.events("instance.updated"))
    assert house.do("refresh_security_group_rules", group_id="web", rules=[HTTP]).error is None
    assert (ports(house, one), ports(house, other)) == ([80], [80])
    told = [event.instance_uuid for event in house.events("instance.updated")][before:]
    assert told == [one]  # nothing of the other's record has changed
    assert house.do("refresh_security_group_rules", group_id="web", rules=[]).error is None
    assert (ports(house, one), ports(house, other)) == ([], [])
    house.crash()
    assert house.record(one).instance.security_groups[0].rules == []


def test_an_instance_that_brings_newer_rules_has_them(house: House) -> None:
    assert house.do("refresh_security_group_rules", group_id="web", rules=[HTTP]).error is None
    assert ports(house, spawn(house, SSH)) == [22]


def test_groups_of_an_update_are_applied(house: House) -> None:
    uuid = spawn(house, SSH)
    wanted = [{"id": "web", "rules": [HTTP]}]
    assert house.do("update_instance", instance_uuid=uuid, security_groups=wanted).error is None
    assert ports(house, uuid) == [80]
    assert house.record(uuid).instance.security_groups[0].rules[0].port_range_min == 80


def test_new_groups_of_an_instance_leave_the_rest_of_its_record(house: House) -> None:
    uuid = spawn(house, SSH)
    wanted = [{"id": "db", "rules": [HTTP]}]
    ended = house.do("refresh_instance_security_rules", instance_uuid=uuid, security_groups=wanted)
    assert ended.error is None and ports(house, uuid) == [80]
    assert [vif.id for vif in house.record(uuid).instance.network_info] == ["vif-1"]


def test_rules_that_can_not_be_read_are_an_error_not_none(house: House) -> None:
    def spoil(tx: Transaction) -> None:
        tx.execute("INSERT INTO security_groups (id, rules) VALUES ('web', '[{\"deny\": 1}]')")

    house.store.write(spoil)
    with pytest.raises(errors.InvalidState, match="can't be read"):
        house.store.read(lambda tx: groups.rules(tx, "web"))
    assert house.do("refresh_security_group_rules", group_id="web", rules=[HTTP]).error is None
    assert ports(house, spawn(house)) == [80]

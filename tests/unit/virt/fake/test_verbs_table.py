# SPDX-License-Identifier: Apache-2.0
"""The table of members, power states and events, on the fake driver."""

import pytest

from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from tests.unit.virt.contract.verbs_table import ACTS, REACHED, ROWS, Row
from tests.unit.virt.fake.conftest import Host


def brought_to(host: Host, state: PowerState) -> Instance:
    instance = host.spawn()
    if state is PowerState.CRASHED:
        host.driver.outside.crash(instance.uuid)
    else:
        for act in REACHED[state]:
            ACTS[act](host.driver, instance)
    assert host.driver.get_info(instance).state is state
    assert host.events is not None
    return instance


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_member_does_what_the_table_says(host: Host, row: Row) -> None:
    instance = brought_to(host, row.start)
    if row.error is None:
        ACTS[row.act](host.driver, instance)
    else:
        with pytest.raises(row.error):
            ACTS[row.act](host.driver, instance)
    assert tuple(host.events) == row.events
    if row.end is None:
        assert host.nothing_is_left()
    else:
        assert host.driver.get_info(instance).state is row.end


REPEATABLE = [row for row in ROWS if row.error is None and not row.act.startswith("reboot")]


@pytest.mark.parametrize("row", REPEATABLE, ids=str)
def test_repeating_a_member_changes_and_tells_nothing(host: Host, row: Row) -> None:
    instance = brought_to(host, row.start)
    ACTS[row.act](host.driver, instance)
    once = host.driver.hypervisor.find(instance.uuid)
    assert host.events is not None
    if row.act != "resume" or row.end is PowerState.RUNNING:
        ACTS[row.act](host.driver, instance)
    assert host.events == []
    assert host.driver.hypervisor.find(instance.uuid) == once

# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that stumbles and a disk that is full: the agent goes on, and tells all of it afterwards."""

import sqlite3
from unittest import mock

import pytest

from compute_agent import concurrency
from compute_agent.events.publisher import Publisher
from compute_agent.manager import reconcile
from compute_agent.manager.reports import Reporter
from compute_agent.model import errors
from compute_agent.model.states import InstanceState as S
from compute_agent.rpc.sink import BrokerSink
from compute_agent.store import database, instances
from compute_agent.store import host as host_store
from tests.unit.house import House


@pytest.mark.parametrize(
    "problem", [errors.Timeout("libvirt did not answer"), errors.HypervisorUnavailable("away")]
)
def test_a_comparison_that_fails_at_the_start_is_made_again(house: House, problem: Exception) -> None:
    house.manager.observer._turned.clear()
    with mock.patch.object(reconcile, "compare", autospec=True, side_effect=problem):
        house.manager.observer.compare_at_start()
        assert house.manager.hypervisor_away is not None
        assert "hypervisor" in house.store.read(host_store.reasons)
    for _ in range(3000):
        if house.manager.hypervisor_away is None and not house.store.read(host_store.reasons):
            break
        concurrency.sleep(0.01)
    assert house.manager.hypervisor_away is None
    assert house.store.read(host_store.reasons) == {}


@pytest.mark.parametrize("problem", [concurrency.TimedOut(), RuntimeError("a bug")])
def test_a_report_goes_without_what_the_hypervisor_does_not_tell(house: House, problem: Exception) -> None:
    reporter = Reporter(
        house.manager,
        Publisher(house.store, mock.create_autospec(BrokerSink, instance=True)),
        concurrency.HubMonitor(),
    )
    with mock.patch.object(house.driver, "get_available_resource", autospec=True, side_effect=problem):
        report = reporter.report()
    assert report["resources"] is None
    assert report["enabled"]


def test_a_lifecycle_event_outlives_a_full_disk(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "RETRY_S", 0.05)
    uuid = house.spawn()
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    with mock.patch.object(instances, "put", autospec=True, side_effect=full):
        house.driver.outside.shut_down(uuid)
        concurrency.sleep(0.1)
    house.store.insist(lambda tx: None)
    assert house.record(uuid).state is S.STOPPED
    assert len(house.events("instance.lifecycle.stopped")) == 1

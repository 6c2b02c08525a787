# SPDX-License-Identifier: Apache-2.0
"""Verbs that only wait for other operations: they hold up nobody, and outlive the agent's stop."""

import dataclasses
from collections.abc import Iterator

import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.operation import Lane, OperationState
from compute_agent.operations.verbs import Job, Outcome, Unfinished
from compute_agent.store import journal
from tests.unit.operations.conftest import Rig


@pytest.fixture
def host(rig: Rig) -> Rig:
    """The rig with two verbs of the host: a long one, and a short one."""
    short = dataclasses.replace(rig.table["destroy"], lane=Lane.HOST, preempts=False)
    for name, detached in (("host_maintenance_mode", True), ("set_host_enabled", False)):
        act = rig.stage.perform(name)
        rig.table[name] = dataclasses.replace(short, name=name, perform=act, detached=detached)
    rig.crash()
    return rig


@pytest.fixture
def one_place() -> Iterator[None]:
    CONF.set_override("max_running", 1, group="journal")
    yield
    CONF.clear_override("max_running", group="journal")


def wait_for(event: concurrency.Event) -> None:
    assert event.wait(10)


def test_the_lane_goes_on_once_it_has_begun_and_it_takes_no_place(host: Rig, one_place: None) -> None:
    go_on = concurrency.Event()

    def long(job: Job) -> Outcome:
        wait_for(go_on)
        return Outcome({"log": list(host.stage.log)})

    host.stage.acts["host_maintenance_mode"] = long
    first = host.ask("host_maintenance_mode", mode="on")
    assert host.do("set_host_enabled", enabled=True).state is OperationState.SUCCEEDED
    go_on.set()
    result = host.end_of(first).result
    assert result is not None
    assert [line.split()[0] for line in result["log"]] == ["host_maintenance_mode", "set_host_enabled"]


def test_what_it_has_found_is_its_result_while_it_runs_and_when_it_fails(host: Rig) -> None:
    found, go_on = concurrency.Event(), concurrency.Event()

    def fails(job: Job) -> Outcome:
        job.work.findings = {"moved": 1}
        found.set()
        wait_for(go_on)
        raise errors.MigrationFailed("one is left")

    host.stage.acts["host_maintenance_mode"] = fails
    accepted = host.ask("host_maintenance_mode", mode="on")
    wait_for(found)
    assert accepted.operation is not None
    assert host.engine.overlay(accepted.operation).result == {"moved": 1}
    go_on.set()
    end = host.end_of(accepted)
    assert (end.state, end.result) == (OperationState.FAILED, {"moved": 1})


def test_it_goes_on_after_a_stop_as_if_that_had_not_been(host: Rig) -> None:
    def waits(job: Job) -> Outcome:
        wait_for(host.engine.stopping)
        raise Unfinished

    host.stage.acts["host_maintenance_mode"] = waits
    accepted = host.ask("host_maintenance_mode", mode="on")
    assert accepted.operation is not None
    operation_id = accepted.operation.operation_id
    concurrency.sleep(0)
    for entry in host.engine.entries:
        wait_for(entry.begun)
    assert host.engine.stop(10)
    left = host.store.read(lambda tx: journal.find(tx, operation_id))
    assert left is not None and (left.state, left.attempts) == (OperationState.RUNNING, 0)
    host.stage.acts["host_maintenance_mode"] = lambda job: Outcome({"attempts": job.operation.attempts})
    host.crash()
    assert host.engine.recover() == 1
    assert host.end_of(accepted).result == {"attempts": 1}


def test_one_that_is_asked_to_end_is_not_waited_for(host: Rig) -> None:
    def waits(job: Job) -> Outcome:
        wait_for(job.work.cancel_requested)
        raise errors.Cancelled("it was")

    host.stage.acts["host_maintenance_mode"] = waits
    accepted = host.ask("host_maintenance_mode", mode="on")
    assert accepted.operation is not None
    operation_id = accepted.operation.operation_id
    entry = host.engine.ask_to_end(operation_id)
    assert entry is not None and entry.cancelled
    assert host.end_of(accepted).state is OperationState.CANCELLED
    assert host.engine.ask_to_end(operation_id) is None

# SPDX-License-Identifier: Apache-2.0
"""Cancelling and destroying reach an operation wherever it is, and never what they may not."""

import uuid

import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model.operation import OperationState as O
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, Outcome
from tests.unit.operations.conftest import Rig, hang, instance

UUID = instance()["uuid"]


@pytest.fixture
def one_build(rig: Rig) -> concurrency.Event:
    """Another instance's spawn holds the only place; the event lets it end."""
    gate = concurrency.Event()
    CONF.set_override("max_concurrent_builds", 1)
    rig.stage.acts["spawn"] = lambda job: (gate.wait(10), Outcome(state=S.ACTIVE))[1]
    rig.ask("spawn", instance=instance(9))
    concurrency.sleep(0.05)
    yield gate
    gate.set()
    CONF.clear_override("max_concurrent_builds")


def test_destroy_cancels_a_spawn_that_waits_for_a_place(rig: Rig, one_build: concurrency.Event) -> None:
    spawn = rig.ask("spawn", instance=instance())
    concurrency.sleep(0.05)
    destroy = rig.ask("destroy", instance_uuid=UUID)
    assert rig.end_of(spawn).state is O.CANCELLED
    assert rig.end_of(destroy).state is O.SUCCEEDED
    assert not one_build.is_set(), "nobody waited for the place"


def test_a_place_that_nobody_wants_any_more_goes_to_the_next(rig: Rig, one_build: concurrency.Event) -> None:
    unwanted = rig.ask("spawn", instance=instance(1))
    wanted = rig.ask("spawn", instance=instance(2))
    concurrency.sleep(0.05)
    assert unwanted.operation is not None
    cancelled = rig.engine.cancel(unwanted.operation.operation_id)
    assert cancelled is not None and cancelled.state is O.CANCELLED
    behind = rig.do("destroy", instance_uuid=UUID)
    assert behind.state is O.SUCCEEDED, "its lane goes on without the place"
    one_build.set()
    assert rig.end_of(wanted).state is O.SUCCEEDED
    assert rig.do("spawn", instance=instance(3)).state is O.SUCCEEDED


def test_a_cancel_that_comes_while_an_operation_is_undone_does_not_keep_it_from_that(rig: Rig) -> None:
    left, undoing = {"domain"}, concurrency.Event()

    def fail() -> None:
        raise RuntimeError

    def undo() -> None:
        undoing.set()
        steps.current().sleep(0.05)
        left.clear()

    def spawn(job: Job) -> Outcome:
        steps.run([steps.Step("start", fail, undo=undo)])
        return Outcome()

    rig.stage.acts["spawn"] = spawn
    accepted = rig.ask("spawn", instance=instance())
    assert undoing.wait(5)
    destroy = rig.ask("destroy", instance_uuid=UUID)
    assert rig.end_of(accepted).state in (O.FAILED, O.CANCELLED)
    assert rig.end_of(destroy).state is O.SUCCEEDED
    assert not left


def test_a_destroy_for_an_older_placement_cancels_nothing(rig: Rig) -> None:
    gate = concurrency.Event()
    rig.stage.acts["spawn"] = lambda job: (steps.current().wait(gate, 5), Outcome(state=S.ACTIVE))[1]
    spawn = rig.ask("spawn", instance=instance(generation=2))
    concurrency.sleep(0.05)
    stale = rig.ask("destroy", instance_uuid=UUID, generation=1)
    concurrency.sleep(0.05)
    gate.set()
    assert rig.end_of(spawn).state is O.SUCCEEDED
    refused = rig.end_of(stale)
    assert refused.error is not None and refused.error.code == "StaleGeneration"


def test_a_destroy_for_an_older_placement_leaves_a_queued_spawn(
    rig: Rig, one_build: concurrency.Event
) -> None:
    spawn = rig.ask("spawn", instance=instance(generation=2))
    concurrency.sleep(0.05)
    stale = rig.ask("destroy", instance_uuid=UUID, generation=1)
    one_build.set()
    assert rig.end_of(spawn).state is O.SUCCEEDED
    refused = rig.end_of(stale)
    assert refused.error is not None and refused.error.code == "StaleGeneration"


def test_a_full_queue_still_takes_a_cancel(rig: Rig) -> None:
    rig.stage.acts["spawn"] = hang
    CONF.set_override("max_queued", 1, group="journal")
    try:
        rig.ask("spawn", instance=instance())
        concurrency.sleep(0.05)
        rig.ask("pause", instance_uuid=UUID)
        assert rig.do("pause", instance_uuid=UUID).error is not None
        assert rig.do("cancel_operation", target=str(uuid.uuid4())).error is None
    finally:
        CONF.clear_override("max_queued", group="journal")
        rig.do("destroy", instance_uuid=UUID)

# SPDX-License-Identifier: Apache-2.0
"""Lanes go on, whatever becomes of one operation."""

import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.operation import OperationState as O
from compute_agent.model.states import InstanceState as S
from compute_agent.operations import turns
from compute_agent.operations.verbs import Job, Outcome
from compute_agent.store import instances, journal
from tests.unit.operations.conftest import Rig, hang, instance

UUID = instance()["uuid"]


def test_a_lane_goes_on_after_an_end_that_could_not_be_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.do("spawn", instance=instance())
    real, broken = turns.end, [True]

    def end(tx, verb, *rest):  # type: ignore[no-untyped-def]
        if verb.name == "pause" and broken:
            raise errors.InvalidState("not this way")
        return real(tx, verb, *rest)

    monkeypatch.setattr(turns, "end", end)
    rig.ask("pause", instance_uuid=UUID)
    concurrency.sleep(0.1)
    broken.clear()
    assert rig.do("destroy", instance_uuid=UUID).state is O.SUCCEEDED


def test_what_looks_before_the_end_does_not_change_it(rig: Rig) -> None:
    def fail(entry: object, error: object) -> None:
        raise RuntimeError("the look failed")

    rig.engine.hooks.before_end = fail
    assert rig.do("spawn", instance=instance()).state is O.SUCCEEDED
    assert rig.state(UUID) is S.ACTIVE


def test_a_verb_that_this_release_does_not_know_any_more_ends_failed(rig: Rig) -> None:
    rig.stage.acts["pause"] = hang
    rig.do("spawn", instance=instance())
    accepted = rig.ask("pause", instance_uuid=UUID)
    concurrency.sleep(0.05)
    rig.store.close()
    del rig.table["pause"]
    rig.begin()
    rig.engine.recover()
    assert accepted.operation is not None
    ended = rig.store.read(lambda tx: journal.find(tx, accepted.operation.operation_id))
    assert ended is not None and ended.error is not None and ended.error.code == "UnknownVerb"
    assert rig.told(ended)[-1] == "operation.failed"
    assert rig.do("destroy", instance_uuid=UUID).state is O.SUCCEEDED


def test_a_hung_call_keeps_its_lane_and_no_place(rig: Rig) -> None:
    gate, pool = concurrency._native_threading.Event(), concurrency.NativePool("hung", 1)

    def spawn(job: Job) -> Outcome:
        if job.instance.uuid == UUID:
            pool.call_within(0.05, gate.wait, 10)
        return Outcome(state=S.ACTIVE)

    rig.stage.acts["spawn"] = spawn
    CONF.set_override("max_concurrent_builds", 1)
    try:
        hung = rig.do("spawn", instance=instance())
        assert hung.error is not None and hung.error.code == "Timeout"
        behind = rig.ask("spawn", instance=instance())
        assert rig.do("spawn", instance=instance(2)).state is O.SUCCEEDED
        assert rig.engine.waiting == 1, "the lane of the hung one is closed"
        gate.set()
        assert rig.end_of(behind).state is O.SUCCEEDED
    finally:
        gate.set()
        CONF.clear_override("max_concurrent_builds")
        pool.close()


def test_a_hung_guest_can_be_taken_away_and_nothing_else_is_done_to_it(rig: Rig) -> None:
    gate, pool = concurrency._native_threading.Event(), concurrency.NativePool("hung", 1)
    rig.do("spawn", instance=instance())
    rig.stage.acts["pause"] = lambda job: pool.call_within(0.05, gate.wait, 10)
    try:
        assert rig.do("pause", instance_uuid=UUID).error is not None
        asked = rig.ask("reboot", instance_uuid=UUID, reboot_type="HARD")
        concurrency.sleep(0.02)
        assert rig.do("destroy", instance_uuid=UUID).state is O.SUCCEEDED
        assert rig.end_of(asked).state is O.CANCELLED
        again = rig.ask("spawn", instance=instance(generation=1))
        concurrency.sleep(0.02)
        assert rig.engine.waiting == 1, "the call has not come back yet"
        gate.set()
        assert rig.end_of(again).state is O.SUCCEEDED
    finally:
        gate.set()
        pool.close()


def test_a_failed_spawn_leaves_the_tombstone_of_the_placement_before(rig: Rig) -> None:
    rig.do("spawn", instance=instance(generation=3))
    rig.do("destroy", instance_uuid=UUID)
    good = rig.stage.acts["spawn"]
    rig.stage.acts["spawn"] = lambda job: (_ for _ in ()).throw(errors.HypervisorError("no"))
    assert rig.do("spawn", instance=instance(generation=4)).error is not None
    rig.stage.acts["spawn"] = good
    assert rig.state(UUID) is S.GONE
    late = rig.do("spawn", instance=instance(generation=2))
    assert late.error is not None and late.error.code == "StaleGeneration"
    assert rig.do("spawn", instance=instance(generation=4)).state is O.SUCCEEDED
    revision = rig.store.read(lambda tx: instances.get(tx, UUID)).revision
    assert revision > 4, "it goes on rising"


def test_what_could_not_be_undone_stays_on_record(rig: Rig) -> None:
    from compute_agent import steps

    def fail() -> None:
        raise errors.HypervisorError("it does not start")

    rig.stage.acts["spawn"] = lambda job: steps.run([steps.Step("start", fail, undo=fail)])
    ended = rig.do("spawn", instance=instance())
    assert ended.error is not None and ended.error.step == "start"
    assert rig.state(UUID) is S.ERROR
    record = rig.store.read(lambda tx: instances.get(tx, UUID))
    assert record.error is not None
    assert rig.do("destroy", instance_uuid=UUID).state is O.SUCCEEDED


def test_an_operation_that_ends_the_agent_each_time_is_given_up(rig: Rig) -> None:
    rig.do("spawn", instance=instance())
    rig.stage.acts["pause"] = hang
    accepted = rig.ask("pause", instance_uuid=UUID)
    for _ in range(CONF.journal.max_attempts + 1):
        concurrency.sleep(0.03)
        rig.crash()
        rig.engine.recover()
    ended = rig.end_of(accepted)
    assert ended.error is not None and ended.error.code == "Interrupted"


def test_the_text_of_an_unexpected_error_stays_in_the_log(rig: Rig) -> None:
    def fail(job: Job) -> Outcome:
        raise ValueError(f"bad password: {job.arguments.new_pass}")

    rig.do("spawn", instance=instance())
    rig.stage.acts["set_admin_password"] = fail
    ended = rig.do("set_admin_password", instance_uuid=UUID, new_pass="s3cret")
    assert ended.error is not None and ended.error.code == "Internal"
    assert "ValueError" in ended.error.message
    assert "s3cret" not in str(ended) + str(rig.events())


def test_events_of_an_operation_carry_the_instances_generation(rig: Rig) -> None:
    rig.do("spawn", instance=instance(generation=6))
    operation = rig.do("pause", instance_uuid=UUID)
    generations = {e.generation for e in rig.events() if e.operation_id == operation.operation_id}
    assert generations == {6}

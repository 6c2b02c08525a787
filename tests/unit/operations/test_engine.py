# SPDX-License-Identifier: Apache-2.0
"""What becomes of an operation between its acceptance and its end."""

import msgspec
import pytest

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.operation import OperationState as O
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.operations.verbs import Job, Outcome
from compute_agent.store import instances
from tests.unit.operations.conftest import Rig, hang, instance

UUID = instance()["uuid"]


def spawned(rig: Rig, number: int = 1, **more: object) -> str:
    operation = rig.do("spawn", instance=instance(number, **more))
    assert operation.state is O.SUCCEEDED, operation.error
    return str(operation.instance_uuid)


def test_a_success_tells_acceptance_start_record_and_end_in_this_order(rig: Rig) -> None:
    operation = rig.do("spawn", instance=instance())
    assert rig.told(operation) == [
        "operation.accepted",
        "operation.started",
        "instance.updated",
        "instance.updated",
        "operation.succeeded",
    ]
    assert rig.state(UUID) is S.ACTIVE
    assert [event.seq for event in rig.events()] == list(range(1, 6))


def test_a_failed_spawn_leaves_no_record(rig: Rig) -> None:
    def fail(job: Job) -> Outcome:
        raise errors.DiskFull("no room", step="disk")

    rig.stage.acts["spawn"] = fail
    operation = rig.do("spawn", instance=instance())
    assert operation.state is O.FAILED
    assert operation.error is not None and (operation.error.code, operation.error.step) == (
        "DiskFull",
        "disk",
    )
    assert rig.state(UUID) is None
    assert rig.told(operation)[-2:] == ["instance.removed", "operation.failed"]


def test_what_the_engine_did_not_expect_ends_as_internal(rig: Rig) -> None:
    def fail(job: Job) -> Outcome:
        raise KeyError("x")

    rig.stage.acts["spawn"] = fail
    operation = rig.do("spawn", instance=instance())
    assert operation.error is not None and operation.error.code == "Internal"


def test_the_same_request_is_done_once_and_answered_again(rig: Rig) -> None:
    first = rig.ask("spawn", "11111111-1111-4111-8111-111111111111", "a", instance=instance())
    rig.end_of(first)
    again = rig.ask("spawn", "11111111-1111-4111-8111-111111111111", "b", instance=instance())
    assert not again.fresh and again.operation is not None and again.operation.state is O.SUCCEEDED
    assert len(rig.stage.log) == 1
    repeated = rig.events()[-1]
    assert repeated.type == "operation.succeeded" and repeated.data["repeated"] is True


def test_a_redelivered_message_is_not_told_again(rig: Rig) -> None:
    first = rig.ask("spawn", "11111111-1111-4111-8111-111111111111", "a", instance=instance())
    rig.end_of(first)
    before = len(rig.events())
    for _ in range(100):
        rig.ask("spawn", "11111111-1111-4111-8111-111111111111", "a", instance=instance())
    assert len(rig.events()) == before


def test_the_same_id_for_something_else_is_a_conflict_and_harms_nothing(rig: Rig) -> None:
    first = rig.ask("spawn", "11111111-1111-4111-8111-111111111111", instance=instance())
    other = rig.ask("spawn", "11111111-1111-4111-8111-111111111111", instance=instance(2))
    assert other.conflict is not None
    assert rig.end_of(first).state is O.SUCCEEDED
    rejected = [event for event in rig.events() if event.type == "operation.rejected"]
    assert [event.data["error"]["code"] for event in rejected] == ["OperationConflict"]
    assert rig.state(instance(2)["uuid"]) is None


@pytest.mark.parametrize(
    ("verb", "values", "code"),
    [
        ("dance", {}, "UnknownVerb"),
        ("pause", {}, "InvalidArguments"),
        ("pause", {"instance_uuid": "../../etc"}, "InvalidArguments"),
        ("pause", {"instance_uuid": UUID, "colour": 1}, "InvalidArguments"),
        ("pause", {"instance_uuid": UUID}, "InstanceNotFound"),
        ("spawn", {"instance": instance(expires="x")}, "InvalidArguments"),
        ("spawn", {"instance": {**instance(), "image": None}}, "InvalidArguments"),
        ("spawn", {"instance": instance(), "expires_at": "2020-01-01T00:00:00Z"}, "Expired"),
        ("spawn", {"instance": instance(), "host_id": "00000000-0000-4000-8000-00000000000b"}, "WrongHost"),
    ],
)
def test_what_cannot_be_done_fails_under_its_own_id(rig: Rig, verb: str, values: dict, code: str) -> None:  # type: ignore[type-arg]
    operation = rig.do(verb, **values)
    assert operation.state is O.FAILED
    assert operation.error is not None and operation.error.code == code
    assert rig.told(operation)[-1] == "operation.failed"


def test_a_verb_in_the_wrong_state_names_both_states(rig: Rig) -> None:
    spawned(rig)
    rig.do("pause", instance_uuid=UUID)
    operation = rig.do("reboot", instance_uuid=UUID)
    assert operation.error is not None and operation.error.code == "InvalidState"
    assert "paused" in operation.error.message and "active" in operation.error.message


def test_already_so_is_success_without_doing_anything(rig: Rig) -> None:
    spawned(rig)
    rig.do("pause", instance_uuid=UUID)
    done = len(rig.stage.log)
    operation = rig.do("pause", instance_uuid=UUID)
    assert operation.state is O.SUCCEEDED and operation.result == {"already": True}
    assert len(rig.stage.log) == done


def test_a_failed_reboot_leaves_the_instance_in_error_with_the_reason(rig: Rig) -> None:
    spawned(rig)

    def fail(job: Job) -> Outcome:
        raise errors.HypervisorError("it does not start")

    rig.stage.acts["reboot"] = fail
    rig.store.write(
        lambda tx: instances.put(
            tx, msgspec.structs.replace(instances.get(tx, UUID), power_state=PowerState.SHUTDOWN)
        )
    )
    rig.do("reboot", instance_uuid=UUID)
    record = rig.store.read(lambda tx: instances.get(tx, UUID))
    assert record.state is S.ERROR and record.error is not None and record.error.code == "HypervisorError"


def test_revision_and_generation_guard_the_record(rig: Rig) -> None:
    spawned(rig, generation=5)
    stale = rig.do("pause", instance_uuid=UUID, generation=4)
    assert stale.error is not None and stale.error.code == "StaleGeneration"
    wrong = rig.do("pause", instance_uuid=UUID, if_revision=99)
    assert wrong.error is not None and wrong.error.code == "PreconditionFailed"
    revision = rig.store.read(lambda tx: instances.get(tx, UUID)).revision
    assert rig.do("pause", instance_uuid=UUID, if_revision=revision, generation=5).state is O.SUCCEEDED


def test_a_destroyed_instance_comes_back_only_with_a_higher_generation(rig: Rig) -> None:
    spawned(rig)
    assert rig.do("destroy", instance_uuid=UUID).state is O.SUCCEEDED
    same = rig.do("spawn", instance=instance())
    assert same.error is not None and same.error.code == "StaleGeneration"
    assert rig.do("spawn", instance=instance(generation=1)).state is O.SUCCEEDED


def test_operations_of_one_instance_run_one_after_another_in_order(rig: Rig) -> None:
    gate = concurrency.Event()
    rig.stage.acts["spawn"] = lambda job: (gate.wait(5), Outcome(state=S.ACTIVE))[1]
    order = [rig.ask("spawn", instance=instance()), rig.ask("pause", instance_uuid=UUID)]
    order.append(rig.ask("destroy", instance_uuid=instance(2)["uuid"]))
    concurrency.sleep(0)
    gate.set()
    for accepted in order:
        assert rig.end_of(accepted).state is O.SUCCEEDED
    assert [line.split()[0] for line in rig.stage.log if "destroy" not in line] == ["spawn", "pause"]


@pytest.mark.parametrize("error", [None, errors.InvalidState("not now")], ids=["succeeds", "fails"])
def test_what_speaks_to_an_operation_leaves_the_instance_to_that(
    rig: Rig, error: errors.ComputeError | None
) -> None:
    begun, gate = concurrency.Event(), concurrency.Event()

    def build(job: Job) -> Outcome:
        begun.set()
        gate.wait(5)
        return Outcome(state=S.ACTIVE)

    def speak(job: Job) -> Outcome:
        if error is not None:
            raise error
        return Outcome()

    rig.stage.acts |= {"spawn": build, "external_event": speak}
    spawn = rig.ask("spawn", instance=instance())
    assert begun.wait(10) and rig.state(UUID) is S.BUILDING
    spoken = rig.do("external_event", instance_uuid=UUID, name="network-vif-plugged")
    assert (spoken.state is O.SUCCEEDED) is (error is None)
    assert rig.state(UUID) is S.BUILDING and "instance.updated" not in rig.told(spoken)
    gate.set()
    rig.end_of(spawn)
    assert rig.state(UUID) is S.ACTIVE


def test_no_more_builds_run_than_the_limit_lets(rig: Rig) -> None:
    running, most = 0, 0
    gate = concurrency.Event()

    def build(job: Job) -> Outcome:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gate.wait(5)
        running -= 1
        return Outcome(state=S.ACTIVE)

    rig.stage.acts["spawn"] = build
    CONF.set_override("max_concurrent_builds", 3)
    try:
        all_of_them = [rig.ask("spawn", instance=instance(number)) for number in range(1, 11)]
        concurrency.sleep(0.05)
        gate.set()
        assert {rig.end_of(one).state for one in all_of_them} == {O.SUCCEEDED}
        assert most == 3
    finally:
        CONF.clear_override("max_concurrent_builds")


def test_past_its_deadline_an_operation_ends_with_timeout(rig: Rig) -> None:
    rig.stage.acts["spawn"] = hang
    operation = rig.do("spawn", instance=instance(), timeout_s=0.05)
    assert operation.error is not None and operation.error.code == "Timeout"


def test_a_running_operation_can_be_cancelled(rig: Rig) -> None:
    rig.stage.acts["spawn"] = hang
    accepted = rig.ask("spawn", instance=instance())
    concurrency.sleep(0.02)
    assert accepted.operation is not None
    cancelled = rig.engine.cancel(accepted.operation.operation_id)
    assert cancelled is not None and cancelled.state is O.CANCELLED
    assert rig.state(UUID) is None


def test_a_queued_operation_is_cancelled_without_waiting_for_its_turn(rig: Rig) -> None:
    rig.stage.acts["spawn"] = hang
    rig.ask("spawn", instance=instance(), timeout_s=5.0)
    queued = rig.ask("pause", instance_uuid=UUID)
    assert queued.operation is not None
    cancelled = rig.engine.cancel(queued.operation.operation_id)
    assert cancelled is not None and cancelled.state is O.CANCELLED
    assert "pause" not in " ".join(rig.stage.log)


def test_destroy_cancels_what_runs_and_what_waits_for_the_instance(rig: Rig) -> None:
    rig.stage.acts["spawn"] = hang
    spawn = rig.ask("spawn", instance=instance())
    pause = rig.ask("pause", instance_uuid=UUID)
    concurrency.sleep(0.02)
    destroy = rig.ask("destroy", instance_uuid=UUID)
    assert rig.end_of(spawn).state is O.CANCELLED
    assert rig.end_of(pause).state is O.CANCELLED
    assert rig.end_of(destroy).state is O.SUCCEEDED


def test_too_many_waiting_is_host_busy(rig: Rig) -> None:
    rig.stage.acts["spawn"] = hang
    CONF.set_override("max_queued", 2, group="journal")
    try:
        rig.ask("spawn", instance=instance(), timeout_s=5.0)
        concurrency.sleep(0.02)
        rig.ask("pause", instance_uuid=UUID)
        rig.ask("pause", instance_uuid=UUID)
        busy = rig.do("pause", instance_uuid=UUID)
        assert busy.error is not None and busy.error.code == "HostBusy" and busy.error.retryable
    finally:
        CONF.clear_override("max_queued", group="journal")


def test_what_was_accepted_is_done_after_a_crash(rig: Rig) -> None:
    rig.stage.acts["spawn"] = hang
    spawn = rig.ask("spawn", instance=instance())
    pause = rig.ask("pause", instance_uuid=UUID)
    concurrency.sleep(0.02)
    rig.crash()
    rig.stage.acts["spawn"] = lambda job: Outcome(state=S.ACTIVE)
    assert rig.engine.recover() == 2
    first, second = rig.end_of(spawn), rig.end_of(pause)
    assert (first.state, first.attempts) == (O.SUCCEEDED, 2)
    assert second.state is O.SUCCEEDED
    assert rig.told(first).count("operation.succeeded") == 1


def test_an_effect_that_cannot_be_seen_is_not_repeated_after_a_crash(rig: Rig) -> None:
    spawned(rig)
    rig.stage.acts["set_admin_password"] = hang
    accepted = rig.ask("set_admin_password", instance_uuid=UUID, new_pass="s3cret")
    concurrency.sleep(0.02)
    rig.crash()
    rig.engine.recover()
    ended = rig.end_of(accepted)
    assert ended.error is not None and ended.error.code == "Interrupted"
    assert len([line for line in rig.stage.log if line.startswith("set_admin")]) == 1


def test_secrets_leave_the_journal_with_the_operations_end(rig: Rig) -> None:
    spawned(rig)
    operation = rig.do("set_admin_password", instance_uuid=UUID, new_pass="s3cret")
    row = rig.store.read(
        lambda tx: tx.row(
            "SELECT record, arguments FROM operations WHERE operation_id = ?", operation.operation_id
        )
    )
    assert row[1] is None and b"s3cret" not in row[0]
    assert all("s3cret" not in str(event.data) for event in rig.events())


def test_stopping_lets_what_runs_end_and_leaves_the_rest(rig: Rig) -> None:
    gate = concurrency.Event()
    rig.stage.acts["spawn"] = lambda job: (gate.wait(5), Outcome(state=S.ACTIVE))[1]
    running = rig.ask("spawn", instance=instance())
    waiting = rig.ask("pause", instance_uuid=UUID)
    concurrency.sleep(0.02)
    concurrency.spawn(lambda: (concurrency.sleep(0.05), gate.set()))
    assert rig.engine.stop(5)
    assert rig.end_of(running).state is O.SUCCEEDED
    assert waiting.operation is not None
    left = rig.store.read(lambda tx: tx.row("SELECT state FROM operations WHERE verb = 'pause'"))
    assert left == ("accepted",)

# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in one place does not take the record, the events or the questions with it."""

import json
from unittest import mock

import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.manager import host, observer, reconcile
from compute_agent.model import context, errors
from compute_agent.model.event import EventType
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.store import host as host_store
from compute_agent.store import outbox
from compute_agent.virt import event as virt_event
from compute_agent.virt.info import InstanceInfo
from tests.unit.house import House


@pytest.mark.parametrize("problem", [concurrency.TimedOut(), OSError("no such log"), KeyError("x")])
def test_an_event_whose_last_words_cannot_be_had_is_told(house: House, problem: Exception) -> None:
    uuid = house.spawn()
    with mock.patch.object(house.driver, "get_last_words", autospec=True, side_effect=problem):
        house.driver.outside.crash(uuid)
        (event,) = house.events("instance.lifecycle.crashed")
    assert "error" in event.data["last_words"]
    assert house.record(uuid).state is S.STOPPED


def test_a_guest_that_stops_during_its_snapshot_is_stopped(house: House) -> None:
    uuid = house.spawn()

    def snapshot(*_arguments: object, **_more: object) -> None:
        house.driver.outside.shut_down(uuid)

    with mock.patch.object(house.driver, "snapshot", autospec=True, side_effect=snapshot):
        operation = house.do("snapshot", instance_uuid=uuid, destination={"url": "file:///tmp/x"})
    assert operation.error is None
    assert (house.record(uuid).state, house.record(uuid).power_state) == (S.STOPPED, PowerState.SHUTDOWN)


def test_a_lifecycle_event_of_an_operation_carries_its_request_id(house: House) -> None:
    uuid = house.spawn()
    house.ask("pause", instance_uuid=uuid, context={"request_id": "req-1"})
    house.settle()
    (event,) = house.events("instance.lifecycle.paused")
    assert event.request_id == "req-1"


def test_a_context_of_the_wrong_types_does_not_stop_the_events(house: House) -> None:
    kept = context.keep({"request_id": 5, "project_id": 7, "x_a": 1})
    house.ask("spawn", instance={"uuid": "nonsense"}, context=kept)
    assert house.events("operation.failed")[0].request_id == "5"


def test_a_domain_whose_name_no_instance_may_have_is_not_adopted(house: House) -> None:
    uuid = house.spawn()
    house.do("forget", instance_uuid=uuid)
    info = InstanceInfo(name="my server (old)", state=PowerState.RUNNING, uuid=uuid, num_cpu=1, max_mem_kb=1)
    with (
        mock.patch.object(house.driver, "get_all_info", autospec=True, return_value={uuid: info}),
        mock.patch.object(house.driver, "get_description", autospec=True, return_value=None),
    ):
        operation = house.do("adopt", instance_uuid=uuid)
    assert operation.error is not None
    assert operation.error.code == "InvalidArguments"
    assert house.question("list_instances")["instances"] == []


# --- the hypervisor goes and comes ---------------------------------------------------------------------


def hypervisor(house: House, connected: bool) -> None:
    house.driver.emit_event(virt_event.HypervisorEvent(connected=connected, reason="it went away"))


def test_a_hypervisor_that_comes_and_goes_at_once_is_away(house: House) -> None:
    compare, going = reconcile.compare, concurrency.Event()

    def slowly(manager: object) -> None:
        going.set()
        concurrency.sleep(0.05)
        compare(manager)  # type: ignore[arg-type]

    with mock.patch.object(reconcile, "compare", autospec=True, side_effect=slowly):
        hypervisor(house, False)
        hypervisor(house, True)
        assert going.wait(5)
        hypervisor(house, False)
        concurrency.sleep(0.3)
    assert house.manager.hypervisor_away is not None
    assert "hypervisor" in house.store.read(host_store.reasons)


def test_a_comparison_that_fails_is_made_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "COMPARE_AGAIN_S", 0.01)
    compare, problems = reconcile.compare, [errors.HypervisorError("not yet"), concurrency.TimedOut()]

    def at_last(manager: object) -> None:
        if problems:
            raise problems.pop()
        compare(manager)  # type: ignore[arg-type]

    with mock.patch.object(reconcile, "compare", autospec=True, side_effect=at_last):
        hypervisor(house, False)
        hypervisor(house, True)
        concurrency.sleep(0.3)
    assert house.manager.hypervisor_away is None
    assert house.store.read(host_store.reasons) == {}


def test_a_snapshot_of_everything_needs_no_hypervisor(house: House) -> None:
    uuid = house.spawn()
    problem = errors.HypervisorError("busy")
    with mock.patch.object(house.driver, "get_available_resource", autospec=True, side_effect=problem):
        answer = house.question("get_snapshot")
    assert [one["uuid"] for one in answer["instances"]] == [uuid]
    assert answer["resources"] is None


# --- after the host has booted -------------------------------------------------------------------------


def test_who_waits_for_a_word_still_waits_after_another_boot(house: House) -> None:
    ran = house.spawn()
    CONF.set_override("on_host_boot", "confirm")
    try:
        for _boot in range(2):
            house.stop()
            house.meanwhile(ran, "shutdown", origin="host")
            house.start_after_boot()
        assert [one["uuid"] for one in house.events("host.hello")[-1].data["instances"]] == [ran]
        result = house.do("confirm_instances", instance_uuids=[ran]).result
        assert result is not None
        assert result["started"] == [ran]
    finally:
        CONF.clear_override("on_host_boot")


def test_a_crash_between_looking_and_resuming_forgets_nobody(house: House) -> None:
    ran = house.spawn()
    house.stop()
    house.meanwhile(ran, "shutdown", origin="host")
    CONF.set_override("on_host_boot", "resume")
    try:
        with (
            mock.patch.object(host, "start", autospec=True, side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            house.start_after_boot()
        house.crash()
        house.settle()
        assert house.record(ran).state is S.ACTIVE
    finally:
        CONF.clear_override("on_host_boot")


def test_an_orphan_that_comes_again_is_told_again(house: House) -> None:
    uuid = house.spawn()
    house.do("forget", instance_uuid=uuid)
    reconcile.compare(house.manager)
    house.do("adopt", instance_uuid=uuid)
    reconcile.compare(house.manager)
    house.do("forget", instance_uuid=uuid)
    reconcile.compare(house.manager)
    assert len(house.events("host.orphan_found")) == 2


# --- questions -----------------------------------------------------------------------------------------


def test_an_answer_is_as_of_no_event_that_it_does_not_take_in(house: House) -> None:
    uuid = house.spawn()
    before = house.question("ping")["as_of"]["seq"]
    real = house.driver.get_info

    def get_info(instance: object, **more: object) -> object:
        info = real(instance, **more)
        house.store.write(lambda tx: outbox.append(tx, EventType.HOST_PROBLEM))
        return info

    with mock.patch.object(house.driver, "get_info", autospec=True, side_effect=get_info):
        answer = house.question("get_info", instance_uuid=uuid)
    assert answer["as_of"]["seq"] == before


def test_an_event_over_the_limit_of_a_reply_does_not_hold_up_those_behind_it(house: House) -> None:
    large = {"problem": "x" * 2_000_000}
    house.store.write(lambda tx: outbox.append(tx, EventType.HOST_PROBLEM, data=large))
    house.store.write(lambda tx: outbox.append(tx, EventType.HOST_PROBLEM, data={"problem": "small"}))
    seen, since = [], 0
    for _ in range(5):
        answer = house.question("get_events", since=since)
        seen += answer["events"]
        since = answer["next_since"]
    assert seen[-1]["data"] == {"problem": "small"}
    assert len(json.dumps(seen)) < 1_000_000


def test_a_since_of_another_life_is_a_gap(house: House) -> None:
    assert house.question("get_events", since=5_000)["gap"]["reason"] == "epoch"


def test_a_snapshot_of_a_long_queue_comes_in_pages_that_fit(house: House) -> None:
    uuid = house.spawn()
    gate = concurrency.Event()
    with mock.patch.object(house.driver, "pause", autospec=True, side_effect=lambda instance: gate.wait(20)):
        note = {f"x_{n}": "y" * 1000 for n in range(10)}
        asked = [house.ask("pause", instance_uuid=uuid, context=note) for _ in range(150)]
        found, marker, pages = [], None, 0
        while True:
            answer = house.question("get_snapshot", marker=marker)
            assert len(json.dumps(answer)) < 1_048_576
            found += [operation["operation_id"] for operation in answer["operations"]]
            pages += 1
            marker = answer["next_marker"]
            if marker is None:
                break
        gate.set()
    assert set(found) == set(asked)
    assert len(found) == len(asked)
    assert pages > 1


def test_a_page_of_instances_fits_into_a_reply(house: House) -> None:
    uuids = {house.spawn(metadata={f"k{n}": "v" * 4000 for n in range(60)}) for _ in range(6)}
    found, marker = set(), None
    while True:
        answer = house.question("list_instances", marker=marker)
        assert len(json.dumps(answer)) < 1_048_576
        found |= {one["uuid"] for one in answer["instances"]}
        marker = answer["next_marker"]
        if marker is None:
            break
    assert found == uuids


# --- limits and secrets --------------------------------------------------------------------------------


def test_injected_files_over_the_limit_together_are_refused(house: House) -> None:
    half = "A" * 800_000
    operation = house.do(
        "spawn",
        instance={
            "uuid": "11111111-1111-4111-8111-111111111111",
            "flavor": {"vcpus": 1, "memory_mb": 64},
            "image": {"url": "file:///i/a"},
        },
        injected_files=[["/a", half], ["/b", half]],
    )
    assert operation.error is not None
    assert operation.error.code == "MessageTooLarge"


def test_a_tombstone_keeps_no_secrets(house: House) -> None:
    uuid = house.spawn(user_data="czNjcmV0")
    house.do("destroy", instance_uuid=uuid)
    (kept,) = house.store.read(lambda tx: tx.row("SELECT record FROM instances WHERE uuid = ?", uuid))
    assert b"czNjcmV0" not in kept


# --- a cancel and its operation cross ------------------------------------------------------------------


def test_an_operation_that_comes_while_it_is_cancelled_in_advance_is_cancelled(house: House) -> None:
    target = "22222222-2222-4222-8222-222222222222"
    cancel, crossed = house.manager.engine.cancel, list[str]()

    def crossing(operation_id: str) -> object:
        found = cancel(operation_id)
        if not crossed:
            crossed.append(house.ask("spawn", operation_id=target, instance=NEW))
            concurrency.sleep(0.02)
        return found

    hang = mock.patch.object(
        house.driver,
        "spawn",
        autospec=True,
        side_effect=lambda *_, **__: steps.current().wait(concurrency.Event()),
    )
    with hang, mock.patch.object(house.manager.engine, "cancel", autospec=True, side_effect=crossing):
        operation = house.do("cancel_operation", target=target)
    assert operation.result == {"target": target, "state": "cancelled"}


NEW = {
    "uuid": "11111111-1111-4111-8111-111111111111",
    "flavor": {"vcpus": 1, "memory_mb": 64},
    "image": {"url": "file:///i/a"},
}

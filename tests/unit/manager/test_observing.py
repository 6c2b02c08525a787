# SPDX-License-Identifier: Apache-2.0
"""What guests and people at the hypervisor do is followed, told, and never fought."""

import uuid as uuids

import pytest

from compute_agent import concurrency, failpoints
from compute_agent.conf import CONF
from compute_agent.manager import reconcile
from compute_agent.model.event import Cause
from compute_agent.model.handshake import Kind, Phase
from compute_agent.model.states import InstanceState as S
from compute_agent.model.states import PowerState
from compute_agent.store import handshakes
from compute_agent.store import host as host_store
from compute_agent.store.handshakes import HandshakeRecord
from tests.unit.house import House


def test_a_guest_that_shuts_itself_down_becomes_stopped(house: House) -> None:
    uuid = house.spawn()
    house.driver.outside.shut_down(uuid)
    (event,) = house.events("instance.lifecycle.stopped")
    assert (event.cause, event.operation_id, event.instance_uuid) == (Cause.GUEST, None, uuid)
    assert event.data["observed"] == "live"
    assert "last_words" in event.data
    assert house.record(uuid).state is S.STOPPED


def test_a_crash_is_told_as_one_with_its_last_words(house: House) -> None:
    uuid = house.spawn()
    house.driver.outside.write_console(uuid, "Oops\n")
    house.driver.outside.crash(uuid)
    (event,) = house.events("instance.lifecycle.crashed")
    assert "Oops" in str(event.data["last_words"])
    assert house.record(uuid).power_state is PowerState.CRASHED


@pytest.mark.parametrize("seen", ["live", "after a restart"])
@pytest.mark.parametrize(
    ("settled", "told"),
    [(False, "instance.lifecycle.migration_completed"), (True, "instance.lifecycle.crashed")],
    ids=["given away", "given away and here again"],
)
def test_what_ends_here_of_a_guest_that_was_given_away_has_not_crashed(
    house: House, seen: str, settled: bool, told: str
) -> None:
    uuid = house.spawn()
    given = HandshakeRecord(
        migration_id=str(uuids.uuid4()),
        instance_uuid=uuid,
        kind=Kind.PRECOPY,
        phase=Phase.GIVEN,
        settled=settled,
        source="node-1",
        destination="node-2",
    )
    house.store.write(lambda tx: handshakes.put(tx, given))
    if seen == "live":
        house.driver.outside.crash(uuid)
    else:
        house.meanwhile(uuid, "crashed")
        house.crash()
    ends = ("instance.lifecycle.migration_completed", "instance.lifecycle.crashed")
    assert [event.type for end in ends for event in house.events(end)] == [told]


def test_a_verbs_own_event_names_the_operation(house: House) -> None:
    uuid = house.spawn()
    operation = house.do("pause", instance_uuid=uuid)
    (event,) = house.events("instance.lifecycle.paused")
    assert (event.cause, event.operation_id) == (Cause.OPERATION, operation.operation_id)


def test_what_happened_while_the_agent_was_away_is_told_as_found(house: House) -> None:
    off, held, same = house.spawn(), house.spawn(), house.spawn()
    told = len(house.events())
    house.stop()
    house.meanwhile(off, "shutdown")
    house.meanwhile(held, "paused")
    house.start()
    news = [e for e in house.events()[told:] if e.type.startswith("instance.lifecycle")]
    assert {(e.instance_uuid, e.type.value) for e in news} == {
        (off, "instance.lifecycle.stopped"),
        (held, "instance.lifecycle.paused"),
    }
    assert {e.data["observed"] for e in news} == {"reconciled"}
    assert [house.record(uuid).state for uuid in (off, held, same)] == [S.STOPPED, S.PAUSED, S.ACTIVE]


def test_a_domain_that_is_gone_is_reported_and_not_made_again(house: House) -> None:
    uuid = house.spawn()
    house.stop()
    house.meanwhile(uuid, "gone")
    house.start()
    record = house.record(uuid)
    assert record.state is S.ERROR
    assert record.error is not None
    assert house.driver.get_all_info() == {}
    told = len(house.events())
    reconcile.compare(house.manager)
    assert len(house.events()) == told, "it is told once"


def test_a_domain_nobody_knows_is_reported_once_and_left_alone(house: House) -> None:
    uuid = house.spawn()
    house.do("forget", instance_uuid=uuid)
    for _ in range(2):
        reconcile.compare(house.manager)
    (event,) = house.events("host.orphan_found")
    assert event.data["id"] == uuid
    assert house.driver.get_all_info()[uuid].state is PowerState.RUNNING
    assert [orphan["id"] for orphan in house.question("list_orphans")["orphans"]] == [uuid]


def test_a_lost_state_file_is_filled_from_the_domains(house: House) -> None:
    uuid = house.spawn(generation=7, metadata={"a": "b"}, user_data="czNjcmV0")
    house.stop()
    for path in (house.path / "state").glob("state.db*"):
        path.unlink()
    house.start()
    record = house.record(uuid)
    assert (record.state, record.generation, record.managed) == (S.ACTIVE, 7, True)
    assert record.instance.metadata == {"a": "b"}
    assert record.instance.user_data is None, "no secrets in a domain's description"
    assert house.events("host.state_reset")
    assert not house.events("host.orphan_found")


def test_adopting_touches_nothing_and_puts_a_domain_on_record(house: House) -> None:
    uuid = house.spawn(generation=3)
    house.do("forget", instance_uuid=uuid)
    ledger = (house.path / "ledger").read_text()
    assert house.do("adopt", instance_uuid=uuid).error is None
    assert (house.path / "ledger").read_text() == ledger
    assert (house.record(uuid).state, house.record(uuid).generation) == (S.ACTIVE, 3)
    again = house.do("adopt", instance_uuid=uuid)
    assert again.result is not None
    assert again.result["already"]


def test_an_orphan_goes_only_by_its_name(house: House) -> None:
    uuid = house.spawn()
    house.do("forget", instance_uuid=uuid)
    other = house.do("destroy_orphan", orphan_id="another")
    assert other.result is not None
    assert "warning" in other.result
    assert uuid in house.driver.get_all_info()
    assert house.do("destroy_orphan", orphan_id=uuid).error is None
    assert uuid not in house.driver.get_all_info()


def test_destroying_what_is_not_on_record_does_nothing_to_a_domain_of_that_uuid(house: House) -> None:
    uuid = house.spawn()
    house.do("forget", instance_uuid=uuid)
    operation = house.do("destroy", instance_uuid=uuid)
    assert operation.result is not None
    assert "warning" in operation.result
    assert uuid in house.driver.get_all_info()


@pytest.mark.parametrize(
    ("policy", "state"), [("leave", S.STOPPED), ("resume", S.ACTIVE), ("confirm", S.STOPPED)]
)
def test_after_the_host_has_booted(house: House, policy: str, state: S) -> None:
    ran, was_off = house.spawn(), house.spawn()
    house.do("power_off", instance_uuid=was_off, timeout=0)
    house.stop()
    house.meanwhile(ran, "shutdown", origin="host")
    CONF.set_override("on_host_boot", policy)
    try:
        house.start_after_boot()
        house.settle()
        assert house.record(ran).state is state
        assert house.record(was_off).state is S.STOPPED
        if policy == "confirm":
            (hello,) = house.events("host.hello")
            assert [one["uuid"] for one in hello.data["instances"]] == [ran]
            result = house.do("confirm_instances", instance_uuids=[ran, was_off]).result
            assert result == {"started": [ran], "still_waiting": []}
            house.settle()
            assert house.record(ran).state is S.ACTIVE
    finally:
        CONF.clear_override("on_host_boot")


def test_a_disabled_host_takes_no_new_guests_and_keeps_those_it_has(house: House) -> None:
    uuid = house.spawn()
    house.do("set_host_enabled", enabled=False, reason="disks are replaced")
    (event,) = house.events("host.disabled")
    assert event.data["reasons"] == {"operator": "disks are replaced"}
    refused = house.do(
        "spawn",
        instance={
            "uuid": "11111111-1111-4111-8111-111111111111",
            "flavor": {"vcpus": 1, "memory_mb": 64},
            "image": {"url": "file:///i/a"},
        },
    )
    assert refused.error is not None
    assert refused.error.code == "HostDisabled"
    assert house.do("reboot", instance_uuid=uuid, reboot_type="HARD").error is None
    house.stop()
    house.start()
    assert house.store.read(host_store.reasons) == {"operator": "disks are replaced"}
    house.do("set_host_enabled", enabled=True)
    assert house.events("host.enabled")
    house.spawn()


def test_what_an_interrupted_operation_did_unseen_is_told_by_the_one_that_goes_on(house: House) -> None:
    """The guest was started, and the agent killed before the event was written."""
    instance = {
        "uuid": "11111111-1111-4111-8111-111111111111",
        "flavor": {"vcpus": 1, "memory_mb": 64},
        "image": {"url": "file:///i/a"},
    }
    house.driver.register_event_listener(lambda event: None)
    reached = concurrency.Event()
    failpoints.observe(lambda name: reached.set() if name == "spawn.done" else None)
    failpoints.arm("spawn.done=hang")
    begun = house.ask("spawn", instance=instance)
    assert reached.wait(5)
    failpoints.observe(None)
    failpoints.arm("")
    house.crash()
    house.settle()
    record = house.record(str(instance["uuid"]))
    assert (record.state, record.power_state) == (S.ACTIVE, PowerState.RUNNING)
    (event,) = house.events("instance.lifecycle.started")
    assert (event.operation_id, event.data["observed"]) == (begun, "reconciled")

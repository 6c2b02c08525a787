# SPDX-License-Identifier: Apache-2.0
"""A guest that is off, or is shut down for it, goes to another host; it is kept there or goes back."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from compute_agent.virt.fake.world import Domain
from tests.rig import instance
from tests.rig.pair import Pair
from tests.rig.process import wait_until
from tests.rig.sender import RemoteError

OF_A_RUN = ("starts", "started_by", "running_since", "console", "cpu_ns")
"""What differs between two runs of one guest."""


def _but_for_its_run(domain: Domain) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(domain).items() if name not in OF_A_RUN}


def _shown(both: Pair, side: int, uuid: str) -> dict[str, Any]:
    shown: dict[str, Any] = both.senders[side].call("get_instance", instance_uuid=uuid)
    return shown


def test_a_guest_is_resized_reverted_resized_again_and_kept(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start()
    uuid = both.spawn()
    both.write(0, uuid, "before")
    was = _but_for_its_run(both.worlds()[0].domains[uuid])
    shown = _shown(both, 0, uuid)

    migration = both.resize(uuid)
    assert both.receiver.succeeded(migration, 60)["data"]["result"]["moved_to"] == both.agents[1].host
    kinds = [event["type"] for event in both.receiver.of_operation(migration)]
    assert kinds.index("instance.lifecycle.stopped") < kinds.index("operation.succeeded")
    both.receiver.wait_for(type="instance.lifecycle.started", host=both.agents[1].host)
    assert both.owner(uuid) == both.at_home(uuid) == 1
    assert both.state(1, uuid) == "resized"
    assert both.is_aside(0, uuid)
    assert _shown(both, 1, uuid)["instance"]["flavor"]["memory_mb"] == 32
    assert both.content(1, uuid) == "before"
    both.receiver.succeeded(both.senders[1].cast("power_off", instance_uuid=uuid, timeout=0))
    both.receiver.succeeded(both.senders[1].cast("power_on", instance_uuid=uuid))
    assert both.state(1, uuid) == "resized", "it is what it is while it is switched off and on"
    both.write(1, uuid, "after")

    both.receiver.succeeded(both.senders[1].cast("revert_migration", instance_uuid=uuid), 60)
    assert both.owner(uuid) == both.side_of(uuid) == 0
    both.await_nothing(1, uuid)
    assert both.content(0, uuid) == "before"
    assert _but_for_its_run(both.worlds()[0].domains[uuid]) == was
    assert _shown(both, 0, uuid)["instance"] == shown["instance"]
    assert both.state(0, uuid) == "active"

    both.receiver.succeeded(both.resize(uuid), 60)
    both.receiver.succeeded(both.senders[1].cast("confirm_migration", instance_uuid=uuid), 60)
    both.await_nothing(0, uuid)
    assert both.side_of(uuid) == 1
    assert both.state(1, uuid) == "active"
    assert both.content(1, uuid) == "before"
    both.assert_never_two(uuid)
    both.receiver.assert_gapless()


def test_a_guest_that_is_off_stays_so_there_and_back(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start()
    uuid = both.spawn()
    both.receiver.succeeded(both.senders[0].cast("power_off", instance_uuid=uuid, timeout=0))
    both.receiver.succeeded(both.migrate(uuid, mode="cold"), 60)
    assert both.owner(uuid) == both.at_home(uuid) == 1
    there = _shown(both, 1, uuid)
    assert (there["state"], there["power_state"]) == ("resized", 4)
    both.receiver.succeeded(both.senders[1].cast("power_on", instance_uuid=uuid))
    both.receiver.succeeded(both.senders[1].cast("revert_migration", instance_uuid=uuid), 60)
    assert both.owner(uuid) == both.at_home(uuid) == 0
    back = _shown(both, 0, uuid)
    assert (back["state"], back["power_state"]) == ("stopped", 4)
    both.await_nothing(1, uuid)


def test_the_old_host_is_told_when_it_is_back_that_it_is_for_good(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start()
    kept, destroyed = both.spawn(), both.spawn()
    for uuid in (kept, destroyed):
        both.receiver.succeeded(both.resize(uuid), 60)
    both.agents[0].kill()
    both.receiver.succeeded(both.senders[1].cast("confirm_migration", instance_uuid=kept), 60)
    both.receiver.succeeded(both.senders[1].cast("destroy", instance_uuid=destroyed), 60)
    assert both.is_aside(0, kept) and both.is_aside(0, destroyed)
    assert not both.handshake(1, kept)["settled"]
    both.agents[1].kill()
    both.agents[0].start()
    assert both.senders[0].call("list_orphans")["orphans"] == [], "what is set aside is nobody's orphan"
    both.agents[1].start()
    both.await_nothing(0, kept)
    for side in (0, 1):
        both.await_nothing(side, destroyed)
    wait_until(lambda: both.handshake(1, kept)["settled"], 60, "the old host's word", both.evidence)
    assert both.state(1, kept) == "active"


def test_it_is_confirmed_by_itself_when_its_time_is_over(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.agents[1].configure({"DEFAULT": {"resize_confirm_window": 1}})
    both.start()
    uuid = both.spawn()
    both.receiver.succeeded(both.resize(uuid), 60)
    done = both.receiver.wait_for(
        lambda event: event["type"] == "operation.succeeded" and event["data"]["verb"] == "confirm_migration",
        timeout=60,
    )
    assert (done["data"]["origin"], done["instance_uuid"]) == ("agent", uuid)
    both.await_nothing(0, uuid)
    assert both.state(1, uuid) == "active"


def test_a_transfer_that_is_given_up_leaves_the_guest_where_it_was(pair: Callable[..., Pair]) -> None:
    both = pair(transfer_time=600)
    both.start()
    uuid = both.spawn()
    for end_it, code in (("abort", "Cancelled"), ("cancel", "Cancelled"), ("wait", "Timeout")):
        migration = both.resize(uuid, timeout_s=3.0 if end_it == "wait" else 3600)
        wait_until(lambda: _is_sending(both, uuid), 60, "the transfer", both.evidence)
        if end_it == "abort":
            both.senders[0].cast("live_migration_abort", instance_uuid=uuid)
        elif end_it == "cancel":
            both.senders[0].cast("cancel_operation", target=migration)
        error = both.receiver.end_of(migration, 60)["data"]["error"]
        assert error["code"] == code
        assert both.side_of(uuid) == both.owner(uuid) == 0
        assert both.state(0, uuid) == "active"
        wait_until(lambda: both.handshake(0, uuid)["settled"], 60, "the destination's word", both.evidence)


def _is_sending(both: Pair, uuid: str) -> bool:
    status = both.senders[0].call("get_migration_status", instance_uuid=uuid)["migration"]
    return bool(status["status"] == "running")


def test_a_transfer_that_breaks_off_goes_on_and_a_guest_that_does_not_start_is_there(
    pair: Callable[..., Pair],
) -> None:
    both = pair(
        faults="migrate_disk_and_power_off.aside=fail:HypervisorError*1,"
        "send_disks.transfer=fail:DestinationUnreachable*2,"
        "finish_migration.start=fail:InsufficientResources*1"
    )
    both.start()
    uuid = both.spawn()
    both.write(0, uuid, "before")
    failed = both.receiver.failed(both.resize(uuid), 60)
    assert failed["data"]["error"]["code"] == "HypervisorError"
    assert both.side_of(uuid) == both.owner(uuid) == 0
    assert both.state(0, uuid) == "active"
    both.receiver.succeeded(both.resize(uuid), 60)
    came = both.receiver.wait_for(
        lambda event: event["type"] == "operation.succeeded" and event["data"]["verb"] == "receive_migration",
        timeout=60,
    )
    assert "not started" in came["data"]["result"]["warning"]
    there = _shown(both, 1, uuid)
    assert (there["state"], there["power_state"]) == ("resized", 4)
    assert both.content(1, uuid) == "before"
    both.receiver.succeeded(both.senders[1].cast("power_on", instance_uuid=uuid))
    both.receiver.succeeded(both.senders[1].cast("confirm_migration", instance_uuid=uuid), 60)
    both.await_nothing(0, uuid)
    assert both.side_of(uuid) == 1


def test_no_more_are_moved_at_once_than_may_be(pair: Callable[..., Pair]) -> None:
    both = pair(transfer_time=600)
    both.agents[0].configure({"DEFAULT": {"max_concurrent_cold_migrations": 1}})
    both.start()
    uuids = [both.spawn() for _ in range(2)]
    first, second = (both.resize(uuid, timeout_s=3600) for uuid in uuids)
    wait_until(lambda: _is_sending(both, uuids[0]), 60, "the transfer", both.evidence)
    waiting = both.senders[0].call("get_operation", operation_id=second)
    assert waiting["waiting_for"] == "a place within max_concurrent_cold_migrations"
    for migration in (second, first):
        both.receiver.succeeded(both.senders[0].cast("cancel_operation", target=migration), 60)
    assert [both.side_of(uuid) for uuid in uuids] == [0, 0]


def test_what_can_not_be_moved_stays_untouched(pair: Callable[..., Pair]) -> None:
    both = pair(memory_mb=4096)
    both.start()
    uuid = both.spawn()
    starts = both.worlds()[0].domains[uuid].starts
    larger = {"vcpus": 1, "memory_mb": 16, "root_gb": 2}
    both.receiver.succeeded(both.senders[0].cast("pause", instance_uuid=uuid))
    refused = both.receiver.failed(both.resize(uuid), 60)["data"]["error"]["code"]
    assert refused == "InvalidState"
    both.receiver.succeeded(both.senders[0].cast("unpause", instance_uuid=uuid))
    large = instance.describe(pathlib.Path("/images/a.qcow2"), flavor=larger)
    both.receiver.succeeded(both.senders[0].cast("spawn", instance=large))
    refusals: list[tuple[str, str, dict[str, Any]]] = [
        ("InvalidArguments", uuid, {"dest": both.agents[0].host}),
        ("InvalidArguments", uuid, {"mode": "live"}),
        ("DestinationUnreachable", uuid, {"dest": "nobody"}),
        ("MigrationRefused", uuid, {"block_migration": False}),
        ("MigrationRefused", uuid, {"flavor": {"vcpus": 1, "memory_mb": 8192, "root_gb": 1}}),
        ("MigrationRefused", large["uuid"], {"flavor": {**larger, "root_gb": 1}}),
    ]
    for code, guest, asked in refusals:
        failed = both.receiver.failed(both.resize(guest, **asked), 60)
        assert failed["data"]["error"]["code"] == code, asked
        assert both.state(0, guest) == "active"
    for verb in ("confirm_migration", "revert_migration"):
        failed = both.receiver.failed(both.senders[0].cast(verb, instance_uuid=uuid), 60)
        assert failed["data"]["error"]["code"] == "InvalidState"
    assert both.worlds()[0].domains[uuid].starts == starts
    assert both.side_of(uuid) == 0
    with pytest.raises(RemoteError):
        both.senders[1].call("get_instance", instance_uuid=uuid)

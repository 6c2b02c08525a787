# SPDX-License-Identifier: Apache-2.0
"""A guest goes from one agent's host to another's, and back."""

from __future__ import annotations

import pathlib
import uuid as uuids4
from collections.abc import Callable

import pytest

from tests.rig import instance, wire
from tests.rig.pair import Pair
from tests.rig.process import wait_until


def test_a_guest_goes_over_and_comes_back(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start()
    uuid = both.spawn()
    for source, dest in ((0, 1), (1, 0), (0, 1)):
        asked = {"instance_uuid": uuid, "dest": both.agents[dest].host, "mode": "live"}
        migration = both.senders[source].cast("migrate", **asked)
        end = both.receiver.succeeded(migration, 60)
        assert end["data"]["result"]["moved_to"] == both.agents[dest].host
        assert both.side_of(uuid) == dest
        assert both.owner(uuid) == dest
        kinds = [event["type"] for event in both.receiver.of_operation(migration)]
        assert kinds.index("instance.lifecycle.migration_completed") < kinds.index("operation.succeeded")
        started = both.receiver.wait_for(type="instance.lifecycle.started", host=both.agents[dest].host)
        assert started["instance_uuid"] == uuid
    both.assert_never_two(uuid)
    both.receiver.assert_gapless()


def test_an_aborted_migration_leaves_the_guest_where_it_was(pair: Callable[..., Pair]) -> None:
    both = pair(transfer_time=600)
    both.start()
    uuid = both.spawn()
    migration = both.migrate(uuid)
    wait_until(lambda: both.handshake(0, uuid)["phase"] == "moving", 60, "the transfer", both.evidence)
    both.receiver.succeeded(both.senders[0].cast("live_migration_abort", instance_uuid=uuid), 60)
    end = both.receiver.end_of(migration, 60)
    assert (end["type"], end["data"]["error"]["code"]) == ("operation.cancelled", "Cancelled")
    assert both.side_of(uuid) == 0 and both.owner(uuid) == 0
    wait_until(lambda: both.handshake(0, uuid)["settled"], 60, "the destination's word", both.evidence)
    assert both.state(0, uuid) == "active"


def test_a_migration_that_is_forced_ends(pair: Callable[..., Pair]) -> None:
    both = pair(transfer_time=600)
    both.start()
    uuid = both.spawn()
    migration = both.migrate(uuid, timeout_s=3600)
    status = both.senders[0]
    wait_until(
        lambda: status.call("get_migration_status", instance_uuid=uuid)["migration"]["status"] == "running",
        60,
        "the transfer",
        both.evidence,
    )
    both.receiver.succeeded(both.senders[0].cast("live_migration_force_complete", instance_uuid=uuid), 60)
    both.receiver.succeeded(migration, 60)
    assert both.side_of(uuid) == 1


@pytest.mark.parametrize(
    ("on_timeout", "code", "side"), [("abort", "Timeout", 0), ("force", None, 1)], ids=["abort", "force"]
)
def test_a_migration_that_takes_too_long_is_given_up_or_forced(
    pair: Callable[..., Pair], on_timeout: str, code: str | None, side: int
) -> None:
    both = pair(transfer_time=600)
    both.start()
    uuid = both.spawn()
    migration = both.migrate(uuid, timeout_s=3.0, policy={"on_timeout": on_timeout})
    error = both.receiver.end_of(migration, 60)["data"]["error"]
    assert (error and error["code"]) == code
    assert both.side_of(uuid) == side and both.owner(uuid) == side


def test_no_more_are_moved_at_once_than_may_be(pair: Callable[..., Pair]) -> None:
    both = pair(transfer_time=600)
    both.start()
    uuids = [both.spawn() for _ in range(2)]
    first, second = (both.migrate(uuid, timeout_s=3600) for uuid in uuids)
    wait_until(lambda: both.handshake(0, uuids[0])["phase"] == "moving", 60, "the transfer", both.evidence)
    waiting = both.senders[0].call("get_operation", operation_id=second)
    assert waiting["waiting_for"] == "a place within max_concurrent_live_migrations"
    for uuid, migration in zip(uuids, (first, second), strict=True):
        wait_until(
            lambda uuid=uuid: (
                both.senders[0].call("get_migration_status", instance_uuid=uuid)["migration"]["status"]
                == "running"
            ),
            60,
            "the transfer",
            both.evidence,
        )
        both.senders[0].cast("live_migration_force_complete", instance_uuid=uuid)
        both.receiver.succeeded(migration, 60)
        assert both.side_of(uuid) == 1


def test_what_can_not_be_moved_stays_untouched(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start()
    uuid = both.spawn()
    here = both.agents[0].host
    refusals = {
        "InvalidArguments": {"dest": here},
        "DestinationUnreachable": {"dest": "nobody"},
        "MigrationRefused": {"block_migration": False},
    }
    for code, asked in refusals.items():
        failed = both.receiver.failed(both.migrate(uuid, **asked), 60)
        assert failed["data"]["error"]["code"] == code
        assert both.state(0, uuid) == "active"
    taken = instance.describe(pathlib.Path("/images/a.qcow2"), name="taken")
    both.receiver.succeeded(both.senders[0].cast("spawn", instance=taken))
    other = instance.describe(pathlib.Path("/images/a.qcow2"), name="taken")
    both.receiver.succeeded(both.senders[1].cast("spawn", instance=other))
    error = both.receiver.failed(both.migrate(taken["uuid"]), 60)["data"]["error"]
    assert error["code"] in ("InstanceExists", "MigrationRefused")
    assert both.side_of(taken["uuid"]) == 0 and both.owner(taken["uuid"]) == 0


def test_a_paused_guest_arrives_paused(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start()
    uuid = both.spawn()
    both.receiver.succeeded(both.senders[0].cast("pause", instance_uuid=uuid))
    both.receiver.succeeded(both.migrate(uuid), 60)
    assert both.state(1, uuid) == "paused"
    assert [world.domains[uuid].power.name for world in both.worlds() if uuid in world.domains] == ["PAUSED"]


def test_nobody_can_hand_over_what_was_not_migrated(pair: Callable[..., Pair]) -> None:
    """The verb by which an agent receives a guest is its own; a stray message of a handshake does nothing."""
    both = pair()
    both.start()
    uuid = both.spawn()
    one = str(uuids4.uuid4())
    forged = {"migration_id": one, "instance_uuid": uuid, "source": "nobody", "kind": "precopy"}
    rejected = both.senders[0].cast("receive_migration", **forged)
    assert both.receiver.failed(rejected)["data"]["error"]["code"] == "UnknownVerb"
    for message in ("cancel", "take", "taken", "declined", "ready"):
        args = {"migration_id": one, "instance_uuid": uuid, "message": message, "sender": "nobody"}
        both.senders[0].publish(wire.request("migration_message", args, {}))
    both.receiver.succeeded(both.senders[0].cast("pause", instance_uuid=uuid))
    both.receiver.succeeded(both.senders[0].cast("unpause", instance_uuid=uuid))
    assert both.side_of(uuid) == 0 and both.owner(uuid) == 0

# SPDX-License-Identifier: Apache-2.0
"""Either agent is killed at every point of a migration: one copy runs, at the host that has it on record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.rig.pair import Pair
from tests.rig.process import wait_until

PHASES_OF_SOURCE = ["asked", "moving", "given", "given.settled"]
PHASES_OF_DESTINATION = ["preparing", "prepared", "owner", "owner.settled"]
DONE_AT_SOURCE = ["prepare", "start_transfer", "take", "end_guest", "clean_up", "confirm"]
DONE_AT_DESTINATION = ["make_ready", "ready", "resume_guest", "confirm", "taken"]


def _around(phases: Sequence[str]) -> list[str]:
    return [f"handshake.{phase}.{when}" for phase in phases for when in ("before", "after")]


def _done(actions: Sequence[str]) -> list[str]:
    return [f"handshake.do.{action}" for action in actions]


HELD = ["fake.migration.held", "fake.migration.arrived"]
AT_SOURCE = ["migrate.begun", *_around(PHASES_OF_SOURCE), *_done(DONE_AT_SOURCE), *HELD]
AT_DESTINATION = _around(PHASES_OF_DESTINATION) + _done(DONE_AT_DESTINATION)
KEEPING = _around(["keeping", "kept", "kept.settled"]) + _done(["abort_job", "resume_guest", "cancel"])
DROPPING = _around(["dropped", "dropped.settled"]) + _done(["clean_up", "declined"])

SOURCE, DESTINATION = 0, 1


def _go_through(both: Pair, uuid: str, points: Sequence[str], role: int, abort: bool = False) -> None:
    """Kill the agent of a role at each point of a migration of its own; the guest goes back and forth."""
    here = 0
    for point in points:
        struck = here if role is SOURCE else 1 - here
        both.arm(struck, f"{point}=kill")
        migration = both.migrate(uuid, here)
        if abort:
            _abort(both, uuid, here, migration)
        both.agents[struck].wait_end(60)
        both.agents[struck].start()
        end = both.receiver.end_of(migration, 120)
        now = both.side_of(uuid)
        assert (end["type"] == "operation.succeeded") == (now != here), (point, end)
        assert not (abort and now != here), point
        assert both.owner(uuid) == now, point
        wait_until(lambda at=now: both.handshake(at, uuid)["settled"], 60, f"{point}: its end", both.evidence)
        here = now
    both.assert_never_two(uuid)
    both.receiver.assert_gapless()


def _abort(both: Pair, uuid: str, side: int, migration: str) -> None:
    def moving() -> bool:
        told = both.handshake(side, uuid)
        return told["phase"] == "moving" and told["migration_id"] == migration

    wait_until(moving, 60, "the transfer", both.evidence)
    both.senders[side].cast("live_migration_abort", instance_uuid=uuid)


def _started(both: Pair) -> str:
    both.start()
    return both.spawn()


@pytest.mark.parametrize(
    ("points", "role"),
    [
        (["migrate.begun", "handshake.moving.after"], SOURCE),
        (["handshake.given.before", "handshake.given.after"], SOURCE),
        (["handshake.prepared.after", "handshake.owner.before", "handshake.owner.after"], DESTINATION),
        (HELD, SOURCE),
    ],
    ids=["source", "decision", "destination", "switch-over"],
)
def test_killed_where_it_matters_most(pair: Callable[..., Pair], points: list[str], role: int) -> None:
    both = pair()
    _go_through(both, _started(both), points, role)


@pytest.mark.long
@pytest.mark.parametrize(
    ("points", "role"), [(AT_SOURCE, SOURCE), (AT_DESTINATION, DESTINATION)], ids=["source", "destination"]
)
def test_killed_at_every_point_of_a_migration(
    pair: Callable[..., Pair], points: list[str], role: int
) -> None:
    both = pair()
    _go_through(both, _started(both), points, role)


@pytest.mark.long
@pytest.mark.parametrize(
    ("points", "role"), [(KEEPING, SOURCE), (DROPPING, DESTINATION)], ids=["source", "destination"]
)
def test_killed_at_every_point_of_giving_a_migration_up(
    pair: Callable[..., Pair], points: list[str], role: int
) -> None:
    both = pair(transfer_time=600)
    _go_through(both, _started(both), points, role, abort=True)

# SPDX-License-Identifier: Apache-2.0
"""Either agent is killed in the middle of a migration of a real guest: one copy runs, at its owner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.lab.conftest import Pair
from tests.lab.trial import BUSY, SLOW_MBIT, TCP, Trial, on_trial

SOURCE, DESTINATION = "source", "destination"

_PHASES_OF_SOURCE = ("asked", "moving", "given", "given.settled")
_PHASES_OF_DESTINATION = ("preparing", "prepared", "owner", "owner.settled")
_DONE_AT_SOURCE = ("prepare", "start_transfer", "look", "take", "end_guest", "clean_up", "confirm")
_DONE_AT_DESTINATION = ("make_ready", "ready", "resume_guest", "confirm", "taken")
_MADE = ("check", "directory", "disks", "files", "filters", "note")
_TAKEN = ("claim", "rules", "run", "define", "describe", "forget")


def _around(phases: Sequence[str]) -> list[str]:
    return [f"handshake.{phase}.{when}" for phase in phases for when in ("before", "after")]


def _done(actions: Sequence[str]) -> list[str]:
    return [f"handshake.do.{action}" for action in actions]


AT_SOURCE = ["migrate.begun", *_around(_PHASES_OF_SOURCE), *_done(_DONE_AT_SOURCE), "migrate.done"]
AT_DESTINATION = [
    "receive_migration.begun",
    *_around(_PHASES_OF_DESTINATION),
    *_done(_DONE_AT_DESTINATION),
    *(f"migrate.{step}.after" for step in _MADE + _TAKEN),
    "receive_migration.done",
]
KEEPING = [*_around(("keeping", "kept", "kept.settled")), *_done(("abort_job", "resume_guest", "cancel"))]
DROPPING = [*_around(("dropped", "dropped.settled")), *_done(("clean_up", "declined"))]


def kill_at(trial: Trial, role: str, point: str, *, abort: bool = False) -> None:
    """Kill the agent of a role at a point of a migration of its own, which is perhaps aborted."""
    struck = trial.source if role == SOURCE else trial.destination
    trial.arm(struck, f"{point}=kill")
    trial.migrate(timeout_s=600)
    if abort:
        trial.wait_copying()
        trial.sender.cast("live_migration_abort", instance_uuid=trial.guest.uuid)
    struck.wait_end(120)
    struck.start()
    trial.settle(moved=False if abort else None)


@pytest.mark.timeout(600)
def test_killed_where_it_matters_most(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=TCP)) as trial:
        for role, point in (
            (SOURCE, "handshake.moving.after"),
            (SOURCE, "handshake.given.before"),
            (DESTINATION, "handshake.owner.after"),
        ):
            kill_at(trial, role, point)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("points", "role"), [(AT_SOURCE, SOURCE), (AT_DESTINATION, DESTINATION)], ids=[SOURCE, DESTINATION]
)
def test_killed_at_every_point_of_a_migration(
    pair: Callable[..., Pair], points: list[str], role: str
) -> None:
    with on_trial(pair(shared=False, sections=TCP)) as trial:
        for point in points:
            kill_at(trial, role, point)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("points", "role"), [(KEEPING, SOURCE), (DROPPING, DESTINATION)], ids=[SOURCE, DESTINATION]
)
def test_killed_at_every_point_of_giving_a_migration_up(
    pair: Callable[..., Pair], points: list[str], role: str
) -> None:
    with on_trial(pair(shared=False, sections=TCP), program=BUSY) as trial:
        trial.source_host.shape(SLOW_MBIT)
        for point in points:
            kill_at(trial, role, point, abort=True)


# --- post-copy: the guest may run at the destination before the source has heard of it ---------------------

SWITCHING = [*_around(("switching", "given", "given.settled")), *_done(("switch_over", "take", "confirm"))]
_POST_COPY = {**TCP, "libvirt": {**TCP["libvirt"], "live_migration_permit_post_copy": True}}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_source_killed_when_it_switches_over(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=_POST_COPY), program=BUSY) as trial:
        for point in SWITCHING:
            struck = trial.source
            trial.arm(struck, f"{point}=kill")
            trial.migrate(timeout_s=600, policy={"post_copy": True})
            trial.wait_copying()
            trial.sender.cast("live_migration_force_complete", instance_uuid=trial.guest.uuid)
            struck.wait_end(120)
            struck.start()
            if trial.status().get("phase") == "moving":  # it has forgotten that it was to be forced
                trial.sender.cast("live_migration_force_complete", instance_uuid=trial.guest.uuid)
            trial.settle(moved=True)

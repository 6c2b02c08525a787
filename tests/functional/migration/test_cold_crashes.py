# SPDX-License-Identifier: Apache-2.0
"""Either agent is killed at every point of a cold migration, of taking it back and of confirming it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.rig.pair import Pair

SOURCE, DESTINATION = 0, 1

Points = Sequence[tuple[int, str]]
"""Where which end is killed."""


def _around(role: int, *phases: str) -> list[tuple[int, str]]:
    return [(role, f"handshake.{phase}.{when}") for phase in phases for when in ("before", "after")]


def _doing(role: int, *actions: str) -> list[tuple[int, str]]:
    return [(role, f"handshake.do.{action}") for action in actions]


SENDING = [(SOURCE, "fake.migration.disk_sent")]
MAKING = [
    (DESTINATION, f"migrate.{step}.{when}")
    for step in ("image", "stop", "disks", "network", "define", "start")
    for when in ("before", "after")
]
THERE = [
    *_around(SOURCE, "asked", "moving", "given", "given.settled"),
    *_doing(SOURCE, "prepare", "start_transfer", "look", "take", "end_guest", "clean_up", "confirm"),
    *_around(DESTINATION, "preparing", "prepared", "owner", "owner.settled"),
    *_doing(DESTINATION, "make_ready", "ready", "resume_guest", "confirm", "taken"),
    *SENDING,
    *MAKING,
]
BACK = [point for point in THERE if point not in (*SENDING, *MAKING)]
FOR_GOOD = [
    *_around(SOURCE, "discarding", "discarding.settled"),
    *_doing(SOURCE, "remove_aside", "discarded"),
    *_around(DESTINATION, "confirmed", "confirmed.settled"),
    *_doing(DESTINATION, "discard"),
]
GIVING_UP = [
    *_around(SOURCE, "keeping", "kept", "kept.settled"),
    *_doing(SOURCE, "abort_job", "resume_guest", "cancel"),
    *_around(DESTINATION, "dropped", "dropped.settled"),
    *_doing(DESTINATION, "clean_up", "declined"),
]


class Journey:
    """A guest that is resized back and forth; both agents live but for the one that is killed."""

    def __init__(self, both: Pair) -> None:
        self.both = both
        both.start()
        self.uuid = both.spawn()
        self.here = 0
        self.text = ""

    def strike(self, side: int, point: str, ask: Callable[[], str]) -> dict[str, Any]:
        """Kill the agent of a side at a point of what is asked for; how that ends."""
        self.both.arm(side, f"{point}=kill")
        operation = ask()
        self.both.agents[side].wait_end(60)
        self.both.agents[side].start()
        return dict(self.both.receiver.end_of(operation, 120))

    def side(self, role: int, source: int) -> int:
        return source if role is SOURCE else 1 - source

    def there(self, point: tuple[int, str] | None = None) -> None:
        """It is resized at the other host, perhaps at the second attempt."""
        self.write(self.here, f"before {point}")
        if point is not None:
            role, name = point
            struck = self.side(role, self.here)
            end = self.strike(struck, name, lambda: self.both.resize(self.uuid, self.here))
            if end["type"] == "operation.succeeded":
                self.assert_resized()
                return
            assert self.both.owner(self.uuid) == self.both.at_home(self.uuid) == self.here, point
        self.both.receiver.succeeded(self.both.resize(self.uuid, self.here), 120)
        self.assert_resized()

    def assert_resized(self) -> None:
        there = 1 - self.here
        assert self.both.owner(self.uuid) == self.both.at_home(self.uuid) == there
        assert self.both.state(there, self.uuid) == "resized"
        assert self.both.is_aside(self.here, self.uuid)
        assert self.both.content(there, self.uuid) == self.text

    def ask(self, verb: str) -> str:
        return self.both.senders[1 - self.here].cast(verb, instance_uuid=self.uuid)

    def back(self, point: tuple[int, str]) -> None:
        """It is taken back, perhaps at the second attempt: what was written there is not."""
        role, name = point
        before = self.text
        self.write(1 - self.here, f"there {point}")
        end = self.strike(self.side(role, 1 - self.here), name, lambda: self.ask("revert_migration"))
        if end["type"] != "operation.succeeded":
            assert self.both.state(1 - self.here, self.uuid) == "resized", point
            assert self.both.at_home(self.uuid) == 1 - self.here, point
            self.both.receiver.succeeded(self.ask("revert_migration"), 120)
        assert self.both.owner(self.uuid) == self.both.side_of(self.uuid) == self.here, point
        assert self.both.state(self.here, self.uuid) == "active"
        assert self.both.content(self.here, self.uuid) == before
        self.text = before

    def for_good(self, point: tuple[int, str] | None = None) -> None:
        """It is confirmed; nothing is left at the old host."""
        if point is None:
            self.both.receiver.succeeded(self.ask("confirm_migration"), 120)
        else:
            role, name = point
            end = self.strike(self.side(role, self.here), name, lambda: self.ask("confirm_migration"))
            assert end["type"] == "operation.succeeded", point
        self.both.await_nothing(self.here, self.uuid)
        self.here = 1 - self.here
        assert self.both.side_of(self.uuid) == self.here
        assert self.both.content(self.here, self.uuid) == self.text

    def write(self, side: int, text: str) -> None:
        self.both.write(side, self.uuid, text)
        self.text = text

    def end(self) -> None:
        self.both.assert_never_two(self.uuid)
        self.both.receiver.assert_gapless()


def test_killed_where_it_matters_most(pair: Callable[..., Pair]) -> None:
    journey = Journey(pair())
    journey.there((SOURCE, "fake.migration.disk_sent"))
    journey.back((SOURCE, "handshake.given.after"))
    journey.there((DESTINATION, "migrate.define.after"))
    journey.back((DESTINATION, "handshake.owner.after"))
    journey.there()
    journey.for_good((SOURCE, "handshake.discarding.after"))
    journey.end()


@pytest.mark.long
@pytest.mark.parametrize("role", [SOURCE, DESTINATION], ids=["source", "destination"])
def test_killed_at_every_point_of_a_cold_migration(pair: Callable[..., Pair], role: int) -> None:
    journey = Journey(pair())
    for point in THERE:
        if point[0] == role:
            journey.there(point)
            journey.for_good()
    journey.end()


@pytest.mark.long
@pytest.mark.parametrize("role", [SOURCE, DESTINATION], ids=["source", "destination"])
def test_killed_at_every_point_of_taking_it_back(pair: Callable[..., Pair], role: int) -> None:
    journey = Journey(pair())
    for point in BACK:
        if point[0] == role:
            journey.there()
            journey.back(point)
    journey.end()


@pytest.mark.long
def test_killed_at_every_point_of_confirming_it(pair: Callable[..., Pair]) -> None:
    journey = Journey(pair())
    for point in FOR_GOOD:
        journey.there()
        journey.for_good(point)
    journey.end()


@pytest.mark.long
def test_killed_at_every_point_of_giving_it_up(pair: Callable[..., Pair]) -> None:
    journey = Journey(pair(transfer_time=600))
    both, uuid = journey.both, journey.uuid
    journey.write(0, "stays")
    for role, name in GIVING_UP:
        both.arm(role, f"{name}=kill")
        migration = both.resize(uuid, timeout_s=5.0)
        both.agents[role].wait_end(60)
        both.agents[role].start()
        assert both.receiver.end_of(migration, 120)["type"] == "operation.failed", name
        assert both.owner(uuid) == both.side_of(uuid) == 0, name
        assert both.content(0, uuid) == "stays"
        assert both.state(0, uuid) == "active"
    journey.end()

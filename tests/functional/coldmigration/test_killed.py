# SPDX-License-Identifier: Apache-2.0
"""Cold migration of real guests whose agents are killed in the middle; the next ones go on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from compute_agent import failpoints
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from tests.functional.coldmigration.hosts import Migration, Pair

FLAVOR = Flavor(vcpus=1, memory_mb=32, root_gb=1, swap_mb=8)
SAMPLE = (
    "migrate.open.after",
    "migrate.undefine.after",
    "cold.noted",
    "migrate.files.after",
    "migrate.define.after",
)


class Killed(BaseException):
    """Nothing of the agent's runs any more: no step is undone."""


class Killer:
    """Kills at a point, once; notes the points that are passed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.at: str | None = None

    def __call__(self, point: str) -> None:
        self.passed.append(point)
        if point == self.at:
            self.at = None
            raise Killed(point)


@pytest.fixture
def killer() -> Iterator[Killer]:
    made = Killer()
    failpoints.observe(made)
    yield made
    failpoints.observe(None)


def _insist(both: Pair, *parts: Callable[[], object]) -> None:
    """Do the parts; after a kill the hosts' agents are started again, and do what they were at once more."""
    for part in parts:
        try:
            part()
        except Killed:
            for host in (both.one, both.other):
                host.close()
                host.start()
            part()


def _there(both: Pair, instance: Instance, *, back: bool) -> Migration:
    """Bring a guest over, wherever somebody is killed."""
    made = Migration(both, instance, FLAVOR, back=back)
    _insist(both, made.check, made.receive, made.set_aside, made.send, made.finish)
    assert made.there.state_of(instance) is PowerState.RUNNING
    assert made.fact() == "moved"
    _insist(both, made.confirm)
    assert made.source.left_of(instance) == []
    assert sorted(made.there.left_of(instance)) == sorted(["domain", instance.uuid])
    return made


def _kept(both: Pair, instance: Instance) -> None:
    """Give up a migration, wherever somebody is killed before that."""
    made = Migration(both, instance, FLAVOR)
    try:
        for part in (made.check, made.receive, made.set_aside, made.send):
            part()
    except Killed:
        for host in (both.one, both.other):
            host.close()
            host.start()
    _insist(both, made.put_back, made.drop)
    assert both.one.state_of(instance) is PowerState.RUNNING
    assert sorted(both.one.left_of(instance)) == sorted(["domain", instance.uuid])
    assert both.other.left_of(instance) == []


def _points(killer: Killer) -> list[str]:
    """What is passed by each migration: an image is fetched once."""
    return [point for point in dict.fromkeys(killer.passed) if not point.startswith("images.")]


@pytest.mark.timeout(300)
def test_killed_where_it_matters_most(pair: Callable[..., Pair], killer: Killer) -> None:
    both, back = pair(), False
    instance = both.spawned(FLAVOR)
    for point in SAMPLE:
        killer.at = point
        _there(both, instance, back=back)
        assert killer.at is None, f"{point} was not passed"
        back = not back


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shared", [False, True], ids=["own storage", "shared storage"])
def test_killed_at_every_point_of_a_move(pair: Callable[..., Pair], killer: Killer, *, shared: bool) -> None:
    both, back = pair(shared=shared), True
    instance = both.spawned(FLAVOR)
    killer.passed.clear()
    first = Migration(both, instance, FLAVOR)
    for part in (first.check, first.receive, first.send, first.finish, first.confirm):
        part()
    points = _points(killer)
    assert len(points) > 20
    for point in points:
        killer.at = point
        if shared:
            _shared(both, instance, back=back)
        else:
            _there(both, instance, back=back)
        assert killer.at is None, f"{point} was not passed"
        back = not back


def _shared(both: Pair, instance: Instance, *, back: bool) -> None:
    made = Migration(both, instance, FLAVOR, back=back)
    _insist(both, made.check, made.receive, made.send, made.finish, made.confirm)
    assert made.there.state_of(instance) is PowerState.RUNNING
    assert made.source.left_of(instance) == [instance.uuid]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_every_point_before_it_is_given_up(pair: Callable[..., Pair], killer: Killer) -> None:
    both = pair()
    instance = both.spawned(FLAVOR)
    killer.passed.clear()
    _kept(both, instance)
    points = _points(killer)
    assert len(points) > 15
    for point in points:
        killer.at = point
        _kept(both, instance)
        assert killer.at is None, f"{point} was not passed"

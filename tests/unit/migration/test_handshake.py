# SPDX-License-Identifier: Apache-2.0
"""The handshake keeps its guarantees in every interleaving; the exploration would notice if not."""

import pytest

from compute_agent.model.handshake import Do, Fact, Input, Kind, Message, Phase, Protocol
from tests.unit.migration.broken import MUTATIONS
from tests.unit.migration.explorer import Explorer
from tests.unit.migration.hosts import Broken


@pytest.mark.parametrize("kind", Kind)
def test_three_crashes_and_two_partitions_leave_one_running_copy_and_one_owner(
    kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    explorer = Explorer(Protocol(kind))
    visited = explorer.explore(crashes=3, partitions=2, faults=1)
    with capsys.disabled():
        print(f"\n{kind}: 3 crashes, 2 partitions, 1 fault of a hypervisor: {visited} states visited")
    assert visited > 30_000


@pytest.mark.long
@pytest.mark.parametrize("kind", Kind)
def test_three_faults_of_hypervisors_besides_leave_one_running_copy_and_one_owner(
    kind: Kind, capsys: pytest.CaptureFixture[str]
) -> None:
    visited = Explorer(Protocol(kind)).explore(crashes=3, partitions=2, faults=3)
    with capsys.disabled():
        print(f"\n{kind}: 3 crashes, 2 partitions, 3 faults of hypervisors: {visited} states visited")
    assert visited > 100_000


@pytest.mark.parametrize("kind", Kind)
def test_every_phase_and_both_ends_of_a_migration_are_reached(kind: Kind) -> None:
    explorer = Explorer(Protocol(kind))
    explorer.explore(crashes=0, partitions=0, faults=0)
    pairs = {(world.source.now.phase, world.destination.now.phase) for world, _ in explorer.good}
    reached = {phase for pair in pairs for phase in pair}
    of_one_kind = {Phase.SWITCHING: Kind.POSTCOPY, Phase.CONFIRMED: Kind.COLD, Phase.DISCARDING: Kind.COLD}
    assert reached == {phase for phase in Phase if of_one_kind.get(phase, kind) is kind}
    assert {(Phase.KEPT, Phase.DROPPED), (Phase.GIVEN, Phase.OWNER)} <= pairs


@pytest.mark.parametrize(("protocol", "kind", "message"), MUTATIONS, ids=[m[0].__name__ for m in MUTATIONS])
def test_a_protocol_that_breaks_a_rule_is_found_out(
    protocol: type[Protocol], kind: Kind, message: str
) -> None:
    with pytest.raises(Broken, match=message):
        Explorer(protocol(kind)).explore(crashes=2, partitions=1, faults=1)


def test_a_copy_that_does_not_arrive_held_is_found_out() -> None:
    with pytest.raises(Broken, match=r"two copies run|runs before it was told"):
        Explorer(Protocol(Kind.PRECOPY), held=False).explore(crashes=0, partitions=0, faults=1)


def test_nothing_that_an_end_is_told_can_be_taken_for_something_else() -> None:
    values = [one.value for group in (Message, Fact, Input, Do) for one in group]
    assert len(values) == len(set(values))

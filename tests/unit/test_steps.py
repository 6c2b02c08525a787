# SPDX-License-Identifier: Apache-2.0
"""What is left of a list of steps when it ends badly: nothing, whatever an earlier attempt had done."""

import pytest

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.steps import Step, Work

NAMES = ("one", "two", "three")


class Pile:
    """Something that steps put things on."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)

    def steps(self) -> list[Step]:
        return [self._step(name) for name in NAMES]

    def _step(self, name: str) -> Step:
        return Step(
            name,
            do=lambda: self.there.add(name),
            done=lambda: name in self.there,
            undo=lambda: self.there.discard(name),
        )


def test_steps_are_done_but_for_those_that_are() -> None:
    pile = Pile("two")
    steps.run(pile.steps())
    assert pile.there == set(NAMES)


@pytest.mark.parametrize("there", [(), ("one",), ("one", "two"), NAMES])
def test_a_resumed_work_that_is_cancelled_leaves_nothing_of_any_attempt(there: tuple[str, ...]) -> None:
    pile, work = Pile(*there), Work("an-operation", "spawn", attempts=2)
    work.cancel()
    with steps.working(work), pytest.raises(errors.Cancelled):
        steps.run(pile.steps())
    assert pile.there == set()


def test_a_first_attempt_undoes_what_it_did_and_no_more() -> None:
    pile = Pile("three")

    def fail() -> None:
        raise errors.HypervisorError("no")

    listed = pile.steps()
    listed[1] = Step("two", do=fail, undo=lambda: pile.there.discard("two"))
    with steps.working(Work("an-operation", "spawn")), pytest.raises(errors.HypervisorError):
        steps.run(listed)
    assert pile.there == {"three"}, "it is not its own"

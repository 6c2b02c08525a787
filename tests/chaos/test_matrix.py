# SPDX-License-Identifier: Apache-2.0
"""The crash matrix, and a sample of it for every test run. ``make chaos`` prints all of it as a table."""

import pytest

from compute_agent.manager import TABLE
from tests.chaos.__main__ import explain
from tests.chaos.fake import FakeGround
from tests.chaos.ground import Ground
from tests.chaos.matrix import ACTIONS
from tests.chaos.runs import run_verb
from tests.chaos.scenarios import LEFT_OUT, SCENARIOS

SAMPLE = (
    ("reboot", ("kill", "raise", "hang")),
    ("destroy keeping disks", ("kill",)),
    ("trigger_crash_dump", ("kill", "hang")),
    ("attach_volume", ("kill", "raise")),
    ("set_host_enabled", ("kill",)),
)
"""Of each kind of recovery one, one that is undone, and one at each commit and publish, for every run."""


def test_every_verb_is_in_the_matrix_or_is_said_to_be_left_out() -> None:
    hit = {scenario.verb for scenario in SCENARIOS.values()}
    assert hit | LEFT_OUT.keys() == TABLE.keys()
    assert not hit & LEFT_OUT.keys()


def judge(ground: Ground, name: str, actions: tuple[str, ...]) -> None:
    run = run_verb(ground, name, actions)
    assert run.verdicts
    assert [explain(verdict) for verdict in run.faulty] == []


@pytest.mark.parametrize(("name", "actions"), SAMPLE, ids=[name for name, _ in SAMPLE])
def test_a_verb_is_done_once_or_not_at_all_wherever_it_is_hit(
    fake_ground: FakeGround, name: str, actions: tuple[str, ...]
) -> None:
    judge(fake_ground, name, actions)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_verb_is_done_once_or_not_at_all_wherever_it_is_hit(fake_ground: FakeGround, name: str) -> None:
    judge(fake_ground, name, ACTIONS)

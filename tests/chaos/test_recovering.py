# SPDX-License-Identifier: Apache-2.0
"""An agent that is killed again while it recovers from being killed."""

from collections.abc import Iterator

import pytest

from tests.chaos import judging
from tests.chaos.bench import Bench
from tests.chaos.fake import FakeGround
from tests.chaos.matrix import Matrix
from tests.chaos.scenarios import SCENARIOS
from tests.rig.process import wait_until

VARIABLE = "COMPUTE_AGENT_FAILPOINTS"
COMMITS = (1, 3, 5)
"""Of those from the start to the end of what was interrupted."""


@pytest.fixture(scope="module")
def spawning(fake_ground: FakeGround) -> Iterator[tuple[Bench, Matrix]]:
    """A bench, and how a spawn goes without trouble."""
    matrix = Matrix(SCENARIOS["spawn"])
    with Bench(fake_ground) as bench:
        matrix.learn(bench)
        yield bench, matrix


@pytest.mark.parametrize("nth", COMMITS)
@pytest.mark.parametrize("where", ["inside", "after"])
def test_a_spawn_is_done_once_though_its_recovery_is_killed_at_a_commit(
    spawning: tuple[Bench, Matrix], where: str, nth: int
) -> None:
    bench, matrix = spawning
    subject = bench.prepare(matrix.scenario)
    bench.agent.arm("spawn.define.before=kill")
    operation = bench.to.cast("spawn", **subject.arguments)
    bench.agent.wait_end()
    bench.agent.environment[VARIABLE] = f"store.commit.{where}=kill@{nth}"
    bench.agent.start(wait=False)
    wait_until(
        lambda: not bench.agent.running or bench.has_ended(operation, subject.mark),
        60,
        "the second death",
        bench.agent.evidence,
    )
    bench.agent.kill()  # if it took fewer commits than expected
    bench.agent.environment[VARIABLE] = ""
    bench.agent.start()
    end = bench.end_of(operation, subject.mark)
    came = bench.look(subject, operation, end)
    verdict = judging.Verdict(f"{where} {nth}", "store.commit")
    judging.telling(came, verdict)
    judging.success(came, matrix.clean, verdict, undone=False, again=True)
    assert verdict.faults == {}
    assert bench.clear(subject, matrix.scenario) == []

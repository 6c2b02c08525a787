# SPDX-License-Identifier: Apache-2.0
"""No point is forgotten: all that the code can hit are in the matrix, or are left out with a reason."""

import concurrent.futures

import pytest

from tests.chaos import points
from tests.chaos.bench import Bench
from tests.chaos.fake import FakeGround
from tests.chaos.matrix import Matrix

BENCHES = 4


@pytest.fixture(scope="module")
def matrices(fake_ground: FakeGround) -> list[Matrix]:
    """What a run of each scenario, and its undoing, passes."""
    made = [Matrix(scenario) for scenario in fake_ground.scenarios.values()]

    def learn(some: list[Matrix]) -> None:
        with Bench(fake_ground) as bench:
            for matrix in some:
                matrix.learn(bench)

    with concurrent.futures.ThreadPoolExecutor(BENCHES) as benches:
        list(benches.map(learn, [made[number::BENCHES] for number in range(BENCHES)]))
    return made


@pytest.fixture(scope="module")
def crashed_at(matrices: list[Matrix]) -> set[str]:
    return {point.name for matrix in matrices for point in matrix.points}


@pytest.mark.timeout(600)
def test_what_is_passed_is_crashed_at(matrices: list[Matrix], crashed_at: set[str]) -> None:
    passed = {name for matrix in matrices for name in matrix.passed}
    assert passed - crashed_at == set()


def test_what_the_source_names_is_crashed_at_or_left_out_with_a_reason(crashed_at: set[str]) -> None:
    assert points.unmatched(points.in_source(), crashed_at) == points.LEFT_OUT.keys()


def test_every_step_of_the_driver_is_crashed_at(crashed_at: set[str]) -> None:
    named = {f"*.{name}.before" for name in points.steps_of("fake")}
    assert len(named) > 10
    assert points.unmatched(named, crashed_at) == set()


def test_there_are_at_least_300_points(matrices: list[Matrix]) -> None:
    assert sum(len(matrix.points) for matrix in matrices) >= 300

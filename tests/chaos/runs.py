# SPDX-License-Identifier: Apache-2.0
"""Running the matrix of a scenario, on as many benches as it takes."""

from __future__ import annotations

import dataclasses

from tests.chaos.bench import Bench
from tests.chaos.ground import Ground
from tests.chaos.judging import NOT_REACHED, Verdict
from tests.chaos.matrix import ACTIONS, Case, Matrix


@dataclasses.dataclass
class Run:
    """What came of a scenario: a verdict of each case."""

    name: str
    verdicts: list[Verdict]

    @property
    def points(self) -> set[str]:
        """The points that were hit."""
        return {verdict.point for verdict in self.verdicts if verdict.outcome != NOT_REACHED}

    @property
    def faulty(self) -> list[Verdict]:
        """Those with faults."""
        return [verdict for verdict in self.verdicts if verdict.faults]


def _work_off(matrix: Matrix, bench: Bench, cases: list[Case], verdicts: list[Verdict]) -> None:
    while cases:
        verdicts.append(matrix.run(bench, cases.pop(0)))
        if verdicts[-1].faults:
            return


def run_verb(ground: Ground, name: str, actions: tuple[str, ...] = ACTIONS) -> Run:
    """Run all cases of a scenario; one that went wrong is the last of its bench."""
    run = Run(name, [])
    matrix = Matrix(ground.scenarios[name])
    with Bench(ground) as bench:
        matrix.learn(bench)
        cases = list(matrix.cases(actions))
        _work_off(matrix, bench, cases, run.verdicts)
    while cases:
        with Bench(ground) as bench:
            _work_off(matrix, bench, cases, run.verdicts)
    return run

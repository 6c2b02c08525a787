# SPDX-License-Identifier: Apache-2.0
"""The crash matrix on real guests, and a sample of it for every test run."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chaos.__main__ import explain
from tests.chaos.agents import Zygote
from tests.chaos.bench import Bench
from tests.chaos.matrix import ACTIONS, Matrix
from tests.chaos.qemu import QemuGround
from tests.chaos.runs import run_verb
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor

SAMPLE = ("spawn.disk.after", "spawn.define.after", "spawn.start.after")
"""With files only, with a domain that is off, with a guest that runs."""


@pytest.fixture(scope="module")
def qemu_ground(rig: Callable[[Any], Any], broker: Broker, hypervisor: Hypervisor) -> Iterator[QemuGround]:
    """The libvirt driver, with a zygote of its own."""
    ground = QemuGround(rig(Zygote(*QemuGround.modules)), broker, hypervisor)
    with ground:
        yield ground


@pytest.mark.timeout(300)
def test_a_spawn_goes_on_wherever_the_agent_is_killed(qemu_ground: QemuGround) -> None:
    matrix = Matrix(qemu_ground.scenarios["spawn"])
    with Bench(qemu_ground) as bench:
        matrix.learn(bench)
        cases = [case for case in matrix.cases(("kill",)) if case.point.name in SAMPLE]
        verdicts = [matrix.run(bench, case) for case in cases]
    assert [verdict.point for verdict in verdicts] == list(SAMPLE)
    assert [explain(verdict) for verdict in verdicts if verdict.faults] == []
    assert {verdict.outcome for verdict in verdicts} == {"succeeded"}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", QemuGround.scenarios)
def test_every_verb_is_done_once_or_not_at_all_wherever_it_is_hit(qemu_ground: QemuGround, name: str) -> None:
    run = run_verb(qemu_ground, name, ACTIONS)
    assert run.verdicts
    assert [explain(verdict) for verdict in run.faulty] == []

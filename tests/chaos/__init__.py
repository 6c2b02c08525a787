# SPDX-License-Identifier: Apache-2.0
"""The crash matrix: each point of each verb × kill, raise, hang; over a real broker, judged from outside.

A :class:`~tests.chaos.ground.Ground` is where a matrix runs: it makes the agents (``agent()``, a
:class:`~tests.chaos.agents.ForkedAgent` with the driver's configuration), the witness of what happens
(``world(agent)``, a :class:`~tests.chaos.ground.World` that never asks the agent), the guests
(``guest(number)``) and names the scenarios. :class:`~tests.chaos.bench.Bench` and
:class:`~tests.chaos.matrix.Matrix` know nothing else of a driver. A further ground needs a module beside
:mod:`~tests.chaos.fake` and a line in `GROUNDS` of :mod:`~tests.chaos.__main__`; ``run_verb(ground, name)``
of :mod:`~tests.chaos.runs` serves tests.
"""

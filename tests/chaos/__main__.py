# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.chaos``: crash at every point, print a table and totals; status 1 if not all is well."""

from __future__ import annotations

import argparse
import queue
import sys
import threading
import time
from collections import Counter

from tests.chaos.agents import Zygote
from tests.chaos.fake import FakeGround
from tests.chaos.ground import Ground
from tests.chaos.judging import KINDS, Verdict
from tests.chaos.matrix import ACTIONS
from tests.chaos.qemu import QemuGround
from tests.chaos.runs import Run, run_verb
from tests.rig.broker import Broker

GROUNDS: dict[str, type[Ground]] = {"fake": FakeGround, "qemu": QemuGround}
HEADING = f"{'scenario':32} {'points':>6} {'cases':>6}  lost  dupl  orph  harm"


def row(run: Run, seconds: float) -> str:
    """Return a scenario's line of the table."""
    outcomes = Counter(verdict.outcome or "?" for verdict in run.verdicts)
    faults = [str(sum(kind in verdict.faults for verdict in run.verdicts)).rjust(5) for kind in KINDS]
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    figures = f"{len(run.points):6} {len(run.verdicts):6} {' '.join(faults)} {seconds:7.1f} s"
    return f"{run.name:32} {figures}  {told}"


def explain(verdict: Verdict, verbose: bool = False) -> str:
    """Return what is wrong with a case."""
    lines = [f"  {verdict.case} ({verdict.outcome}): {verdict.faults}"]
    return "\n".join([*lines, verdict.evidence] if verbose else lines)


class Chaos:
    """All scenarios of a ground, several at a time."""

    def __init__(self, ground: Ground, names: list[str], options: argparse.Namespace) -> None:
        self._ground = ground
        self._options = options
        self._todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        for name in names:
            self._todo.put(name)
        self.runs: list[Run] = []
        self.broken: list[str] = []

    def run(self) -> None:
        """Run them all, printing each as it is over."""
        workers = [threading.Thread(target=self._work) for _ in range(self._options.jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _work(self) -> None:
        while True:
            try:
                name = self._todo.get_nowait()
            except queue.Empty:
                return
            since = time.monotonic()
            try:
                run = run_verb(self._ground, name, tuple(self._options.action or ACTIONS))
            except Exception as error:
                self.broken.append(name)
                print(f"{name:32} could not be run: {error!r:.600}", flush=True)
                continue
            self.runs.append(run)
            lines = [explain(verdict, self._options.verbose) for verdict in run.faulty]
            print("\n".join([row(run, time.monotonic() - since), *lines]), flush=True)


def totals(runs: list[Run]) -> str:
    """Return the last line."""
    verdicts = [verdict for run in runs for verdict in run.verdicts]
    faults = {kind: sum(kind in verdict.faults for verdict in verdicts) for kind in KINDS}
    told = ", ".join(f"{kind} {number}" for kind, number in faults.items())
    return f"points {sum(len(run.points) for run in runs)}, {told}; cases {len(verdicts)}"


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="only these, and variants of these verbs")
    parser.add_argument("--on", choices=GROUNDS, action="append", help="only this driver")
    parser.add_argument("--action", choices=ACTIONS, action="append", help="only this action")
    parser.add_argument("--all", action="store_true", help="every verb on real guests too")
    parser.add_argument("--jobs", type=int, default=4, help="agents at a time")
    parser.add_argument("--verbose", action="store_true", help="show the logs of what went wrong")
    options = parser.parse_args()
    status = 0
    for name in options.on or GROUNDS:
        began = time.monotonic()
        kind = GROUNDS[name]
        asked = options.scenarios or (() if options.all else kind.usual)
        wanted = [
            one.name for one in kind.scenarios.values() if not asked or one.name in asked or one.verb in asked
        ]
        # The long ones first, so that none is left alone at the end.
        wanted.sort(key=lambda one: one not in kind.shared)
        print(f"--- {name}\n{HEADING}", flush=True)
        with Broker() as broker, Zygote(*kind.modules) as zygote, kind(zygote, broker) as ground:
            chaos = Chaos(ground, wanted, options)
            chaos.run()
        print(f"{name}: {totals(chaos.runs)}  ({time.monotonic() - began:.0f} s)", flush=True)
        if chaos.broken or not chaos.runs or any(run.faulty for run in chaos.runs):
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

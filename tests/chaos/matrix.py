# SPDX-License-Identifier: Apache-2.0
"""The crash matrix: each point of each verb × kill, raise, hang; done, and judged from outside.

The points are those that a clean run of the verb passes, and those that it passes while it is undone; so none
can be forgotten. An operation's own points hang until its deadline. The others (a commit, a publish) have no
deadline: there the agent is killed while it hangs, as a service manager would, and goes on after it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

from tests.chaos import judging
from tests.chaos.bench import Bench, Came, Subject
from tests.chaos.judging import Verdict
from tests.chaos.scenarios import Scenario

ACTIONS = ("kill", "raise", "hang")
SHARED = re.compile(r"^(store|rpc|publish)\.")
REACHED_S = 30.0
ATTEMPTS = 4

CANNOT_RAISE = {"store.commit.after": "nothing that could fail follows a commit"}
"""Points at which no error can come up, and why."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a verb, the nth time it is passed; ``before`` is armed too, to get there."""

    name: str
    nth: int = 1
    before: str = ""

    def __str__(self) -> str:
        return self.name + (f"@{self.nth}" if self.nth > 1 else "")

    @property
    def shared(self) -> bool:
        """Whether it is one of journal, acknowledgement or publishing, and no operation's own."""
        return SHARED.match(self.name) is not None


@dataclasses.dataclass(frozen=True)
class Case:
    """One point of a scenario, and what happens there."""

    scenario: Scenario
    point: Point
    action: str

    @property
    def ends_by_itself(self) -> bool:
        """Whether the agent gets over it without a restart."""
        endless = self.point.shared or self.point.before
        return self.action == "raise" or (self.action == "hang" and not endless)

    def __str__(self) -> str:
        return f"{self.scenario.name}: {self.point} {self.action}"


class Matrix:
    """The cases of one scenario.

    :ivar points: those of its cases
    :ivar passed: the names of all that a run of it passes, its own or not
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.points: list[Point] = []
        self.passed: set[str] = set()

    def learn(self, bench: Bench) -> None:
        """Run the verb without any trouble, then let its last step fail, to know its points and effects."""
        passed, self.clean = self._record(bench, "")
        assert not self.clean.code, f"{self.scenario.name}: {self.clean.end['data'].get('error')}"
        times: Counter[str] = Counter()
        for name in passed:
            times[name] += 1
            point = Point(name, times[name])
            own = name.startswith(f"{self.scenario.verb}.")
            if own or (point.shared and self.scenario.name in bench.ground.shared):
                self.points.append(point)
        ends = (name for name in reversed(passed) if name.endswith(".after") and not SHARED.match(name))
        if last := next(ends, ""):
            armed = f"{last}=raise*1"
            undone, _ = self._record(bench, armed)
            self.points += [Point(name, 1, armed) for name in undone if name.endswith(".undo")]

    def _record(self, bench: Bench, armed: str) -> tuple[list[str], Came]:
        subject = bench.prepare(self.scenario)
        bench.agent.arm(armed)
        operation = bench.to.cast(self.scenario.verb, **subject.arguments)
        end = bench.end_of(operation, subject.mark)
        passed = bench.agent.settle()
        self.passed.update(passed)
        came = bench.look(subject, operation, end)
        bench.agent.arm("")
        bench.clear(subject, self.scenario)
        return passed, came

    def cases(self, actions: tuple[str, ...] = ACTIONS) -> Iterator[Case]:
        """Return the cases."""
        for point in self.points:
            for action in actions:
                if action != "raise" or point.name not in CANNOT_RAISE:
                    yield Case(self.scenario, point, action)

    # --- one case --------------------------------------------------------------------------------------

    def run(self, bench: Bench, case: Case) -> Verdict:
        """Run a case and judge it. How many commits a verb takes varies: it is tried until it is hit."""
        verdict = Verdict(str(case), str(case.point))
        try:
            for attempt in range(ATTEMPTS):
                if self._run(bench, case, verdict, bench.ground.deadline_s * 2**attempt):
                    return verdict
            verdict.outcome = judging.NOT_REACHED
            if not case.point.shared:
                verdict.lost.append("the point was not reached")
        except Exception as error:
            verdict.lost.append(f"{type(error).__name__}: {str(error)[:300]}")
            verdict.evidence = bench.agent.evidence()
        return verdict

    def _run(self, bench: Bench, case: Case, verdict: Verdict, deadline_s: float) -> bool:
        point = case.point
        subject = bench.prepare(self.scenario, idle=point.shared)
        hangs = case.action == "hang" and case.ends_by_itself
        seconds = deadline_s if hangs else bench.ground.enough_s
        bench.agent.arm(";".join(filter(None, [point.before, f"{point.name}={case.action}@{point.nth}*1"])))
        operation = bench.to.cast(self.scenario.verb, timeout_s=seconds, **subject.arguments)
        passed = bench.agent.passes(
            point.name, point.nth, REACHED_S, lambda: bench.has_ended(operation, subject.mark)
        )
        hit = self._is_hit(bench, case, passed)
        if hit and not case.ends_by_itself:
            self._crash(bench, case)
        end = bench.end_of(operation, subject.mark)
        passed += bench.agent.disarm()
        if not hit and not case.ends_by_itself and self._is_hit(bench, case, passed):
            self._crash(bench, case)  # by a commit of its own, which the verb had no part in
        if self.scenario.follows:
            bench.agent.settle()
        if hit:
            self._judge(case, subject, bench.look(subject, operation, end), passed, verdict)
        if left := bench.clear(subject, self.scenario):
            verdict.orphaned.append(f"after its destroy there is {left}")
        if verdict.faults:
            verdict.evidence = bench.agent.evidence()
        return hit

    def _is_hit(self, bench: Bench, case: Case, passed: list[str]) -> bool:
        return not bench.agent.running or passed.count(case.point.name) >= case.point.nth

    def _crash(self, bench: Bench, case: Case) -> None:
        """Let the agent be killed, or kill it where it hangs, and start it again."""
        if case.action == "hang":
            bench.agent.kill()
        bench.agent.wait_end()
        bench.agent.start()

    def _judge(self, case: Case, subject: Subject, came: Came, passed: list[str], verdict: Verdict) -> None:
        undone = bool(case.point.before) or any(name.endswith(".undo") for name in passed)
        verdict.outcome = came.code or "succeeded"
        judging.telling(came, verdict)
        if came.code:
            judging.failure(
                self.scenario,
                subject,
                came,
                self.clean,
                verdict,
                self._allowed(case),
                undone=undone,
                twice=bool(case.point.before) and case.action == "raise",
            )
        else:
            again = not case.ends_by_itself and not case.point.shared
            judging.success(came, self.clean, verdict, undone=undone, again=again)

    def _allowed(self, case: Case) -> set[str]:
        """Return the errors that are in order."""
        allowed = set[str]()
        if case.point.before:
            allowed = {"Internal"}
        elif not case.point.shared:
            allowed = {"raise": {"Internal"}, "hang": {"Timeout"}}.get(case.action, set())
        if judging.unseen(self.scenario.verb) and not case.ends_by_itself:
            allowed = allowed | {"Interrupted"}
        return allowed

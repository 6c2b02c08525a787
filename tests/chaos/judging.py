# SPDX-License-Identifier: Apache-2.0
"""What is wrong with what came of a verb: against a clean run of it, and against how the guest was before.

Lost: an outcome, an effect or an event that should be there. Duplicated: one that is there twice. Orphaned:
what is left and on no record, file descriptors too. Harmed: what happened to others.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from compute_agent.manager import TABLE
from compute_agent.operations.verbs import Recovery
from tests.chaos.bench import Came, Subject
from tests.chaos.scenarios import Scenario

KINDS = ("lost", "duplicated", "orphaned", "harmed")
POWER_STATES = {1: "active", 3: "paused", 4: "stopped", 7: "suspended"}
NOT_REACHED = "not reached"
SETTLED = ("active", "paused", "stopped", "suspended")
ENDS = ("operation.succeeded", "operation.failed")


@dataclasses.dataclass
class Verdict:
    """What is wrong with a case: nothing, if all is well. The kinds are those of the totals."""

    case: str
    point: str
    outcome: str = ""
    lost: list[str] = dataclasses.field(default_factory=list)
    duplicated: list[str] = dataclasses.field(default_factory=list)
    orphaned: list[str] = dataclasses.field(default_factory=list)
    harmed: list[str] = dataclasses.field(default_factory=list)
    evidence: str = ""

    @property
    def faults(self) -> dict[str, list[str]]:
        """What is wrong, by kind."""
        kinds = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: found for kind, found in kinds.items() if found}


def unseen(verb: str) -> bool:
    """Whether nobody can tell that a verb took effect: then a crash ends it Interrupted."""
    return TABLE[verb].recovery is not Recovery.REPEAT


def telling(came: Came, verdict: Verdict) -> None:
    """Judge the events, and what happened to others."""
    kinds = came.types
    began = [kind for kind in kinds if kind == "operation.accepted"]
    ends = [kind for kind in kinds if kind in ENDS]
    if len(began) != 1 or "operation.started" not in kinds or not ends:
        verdict.lost.append(f"events: {kinds}")
    elif kinds[0] != "operation.accepted" or kinds[-1] != ends[-1]:
        verdict.lost.append(f"the events' order: {kinds}")
    if len(ends) > 1:
        verdict.duplicated.append(f"ends: {ends}")
    if came.disorder:
        verdict.lost.append(f"the events' order: {came.disorder}")
    if came.harmed:
        verdict.harmed.append(f"the bystander: {came.harmed}")


def success(came: Came, clean: Came, verdict: Verdict, *, undone: bool, again: bool) -> None:
    """Judge a verb that has succeeded.

    :param undone: it was half undone, and then done again: what counts is where it ended
    :param again: it was interrupted and went on
    """
    if again and came.attempts < 2:
        verdict.lost.append(f"it says that it took {came.attempts} attempts")
    if not undone:
        if more := came.effects - clean.effects:
            verdict.duplicated.append(f"effects: {dict(more)}")
        if less := clean.effects - came.effects:
            verdict.lost.append(f"effects: {dict(less)}")
        if not _complete(came.lifecycle, clean.lifecycle):
            kind = verdict.lost if len(came.lifecycle) <= len(clean.lifecycle) else verdict.duplicated
            kind.append(f"lifecycle events: {came.lifecycle}, not {clean.lifecycle}")
    if (came.state, came.left) != (clean.state, clean.left):
        verdict.lost.append(f"the guest is {came.state} {came.left}, not {clean.state} {clean.left}")
    if came.recorded != clean.recorded:
        verdict.lost.append(f"the record is {came.recorded}, not {clean.recorded}")


def failure(
    scenario: Scenario,
    subject: Subject,
    came: Came,
    clean: Came,
    verdict: Verdict,
    allowed: set[str],
    *,
    undone: bool,
    twice: bool,
) -> None:
    """Judge a verb that has failed: stated, and the host as before, or as after, or as the record says it.

    :param allowed: the errors that are in order
    :param undone: something was taken back: then effects may be there twice
    :param twice: taking it back failed too: then that has to be said, and the record has to be true
    """
    error = came.end["data"].get("error") or {}
    if came.code not in allowed or not error.get("message"):
        verdict.lost.append(f"it failed: {error}")
    done = Counter({name: number for name, number in came.effects.items() if name in clean.effects})
    if not undone and (more := done - clean.effects):
        verdict.duplicated.append(f"effects: {dict(more)}")
    if came.left and came.record is None and not scenario.unrecorded:
        verdict.orphaned.append(f"{came.left} is there, and on no record")
    if came.recorded in SETTLED and came.state != came.recorded:
        verdict.lost.append(f"the record says {came.recorded}, the guest is {came.state}")
    if twice and "not undone: " not in (error.get("hint") or ""):
        verdict.lost.append(f"it does not say what could not be undone: {error}")
    if came.recorded in ("error", came.state) or (came.state, came.left) == (clean.state, clean.left):
        return
    if (came.state, came.left, came.recorded) == (subject.state, subject.left, subject.record):
        return
    if scenario.verb == "destroy" and came.recorded == subject.record and shown(came) == came.state:
        return  # it is not taken back: whatever it was before, it is so still, and what runs is on record
    if not (twice and shown(came) == came.state):
        verdict.lost.append(f"{came.state} {came.left}, on record {shown(came)}: not as before, nor as after")


def shown(came: Came) -> str | None:
    """Return how the guest runs, as its record tells; None if it is on none."""
    return None if came.record is None else POWER_STATES.get(int(came.record["power_state"]), "other")


def _complete(came: list[str], clean: list[str]) -> bool:
    """Whether all lifecycle events came. A guest that stopped and started while nobody looked shows nothing
    of it: both may be missing, and never one of them."""
    return came == clean or (came == [] and clean == ["stopped", "started"])

# SPDX-License-Identifier: Apache-2.0
"""Questions: answered at once, change nothing, and say what they are as of.

One module per kind: what is on record, what happened, the host, guests, plans. Each function
takes the manager and the question's arguments and returns the answer as plain data.
"""

from collections.abc import Callable, Mapping
from typing import Any

from compute_agent.manager.manager import Manager, as_of
from compute_agent.manager.questions import guests, happened, host, planning, records
from compute_agent.model import decode, errors
from compute_agent.model.questions import QUESTIONS

Answer = Callable[[Manager, Any], dict[str, Any]]

MODULES = (records, happened, host, guests, planning)

TABLE: Mapping[str, Answer] = {name: answer for module in MODULES for name, answer in module.ANSWERS.items()}
"""Every question and the function that answers it."""

FROM_RECORD = frozenset(records.ANSWERS) | {"ping", "get_version", "get_events"}
"""Questions that the state file answers, whatever the hypervisor does."""

if missing := QUESTIONS.keys() - TABLE.keys():
    raise ValueError(f"questions without an answer: {', '.join(sorted(missing))}")


def ask(manager: Manager, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question.

    :raises UnknownVerb: if there is no such question
    :raises InvalidArguments: if its arguments are wrong
    """
    if name not in TABLE:
        raise errors.UnknownVerb(f"unknown question: {name[:64]}")
    arguments = decode.arguments(values, QUESTIONS[name])
    before = manager.store.read(as_of)  # what happens meanwhile may be in the answer, and is told after it
    return {"as_of": before, **TABLE[name](manager, arguments)}

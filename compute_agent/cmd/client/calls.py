# SPDX-License-Identifier: Apache-2.0
"""Running a verb or a question."""

import argparse
import time
import uuid

import msgspec

from compute_agent.cmd.client import following, options, spawning
from compute_agent.cmd.client.problems import problem
from compute_agent.cmd.client.session import DONE, FAILED, Record, Session
from compute_agent.model import decode
from compute_agent.model.arguments import VERBS
from compute_agent.model.errors import Error
from compute_agent.model.questions import QUESTIONS

MARKER = "marker"
PING = "ping"
NEXT = "next_marker"


def verb(session: Session, name: str, chosen: argparse.Namespace) -> int:
    """Send a verb, and follow it if that was asked for; return the exit status."""
    arguments = {"operation_id": str(uuid.uuid4()), **options.given(chosen)}
    if name == "spawn":
        arguments["instance"] = spawning.instance(chosen, arguments.get("instance"))
    checked(name, arguments)
    if chosen.cast:
        session.show({"operation_id": session.api.cast(name, **arguments)})
        return DONE
    if chosen.wait or chosen.wait_timeout is not None:
        return _to_the_end(session, name, arguments, chosen.wait_timeout)
    try:
        return following.end(session, session.api.call(name, **arguments))
    except TimeoutError as error:
        session.complain(_unanswered(error, arguments["operation_id"]))
        return FAILED


def _to_the_end(session: Session, name: str, arguments: Record, timeout: float | None) -> int:
    """Send a verb and follow it. It is called, not cast, so that a refusal shows."""
    began = time.monotonic()
    session.hurry(timeout)
    try:
        session.api.call(name, **arguments)
    except TimeoutError as error:
        session.complain(_unanswered(error, arguments["operation_id"]))
        session.note(f"waiting for operation {arguments['operation_id']} all the same")
    left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
    return following.follow(session, arguments["operation_id"], left)


def _unanswered(error: TimeoutError, operation_id: str) -> Error:
    """What was sent is in the host's queue, and will be done when the agent is back."""
    hint = f"it waits in the host's queue; `operations show {operation_id}` tells what became of it, "
    hint += f"`cancel-operation --cast {operation_id}` takes it back"
    return msgspec.structs.replace(problem(error), hint=hint)


def question(session: Session, name: str, chosen: argparse.Namespace) -> int:
    """Ask a question and show the answer; return the exit status."""
    arguments = options.given(chosen)
    checked(name, arguments)
    whole = getattr(chosen, "all", False)
    answer = all_pages(session, name, arguments) if whole else session.api.ask(name, **arguments)
    if name == PING and not session.settings.as_json:
        answer = {**answer.get("as_of", {}), **answer}
    session.show(answer)
    if answer.get(NEXT) and not session.settings.as_json:
        session.note(f"there is more: --{MARKER} {answer[NEXT]}, or --all")
    return DONE


def checked(name: str, arguments: Record) -> None:
    """Check arguments before anything is sent.

    :raises InvalidArguments: naming the field and what is wrong with it
    """
    typed = decode.arguments(arguments, VERBS.get(name) or QUESTIONS[name])
    instance = getattr(typed, "instance", None)
    if instance is not None:
        instance.check()


def all_pages(session: Session, name: str, arguments: Record) -> Record:
    """Return the answer to a question that has pages with all pages in one."""
    whole = session.api.ask(name, **arguments)
    page = whole
    while page.get(NEXT):
        page = session.api.ask(name, **{**arguments, MARKER: page[NEXT]})
        for key, value in page.items():
            if isinstance(value, list):
                whole[key] = [*whole.get(key, []), *value]
    return {**whole, NEXT: None}

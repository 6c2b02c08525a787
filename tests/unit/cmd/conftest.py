# SPDX-License-Identifier: Apache-2.0
"""The command with an agent that answers from a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.cmd import ctl
from compute_agent.cmd.client.session import Settings

UUID = "0b7c5c8e-0000-4000-8000-000000000001"
OPERATION = "8d7fda0e-31ab-4b6e-8c12-5a0d6f7b9c01"
AS_OF = {"host": "node-1", "host_id": UUID, "epoch": "01938e7a-3c00-7a4e-9b1d-2f6c5a7e9d10", "seq": 41}


def operation(state: str = "accepted", **more: Any) -> dict[str, Any]:
    """An operation's record."""
    ended = {"finished_at": "2026-11-21T10:15:02.000000Z"} if state not in ("accepted", "running") else {}
    return {
        "operation_id": OPERATION,
        "verb": "pause",
        "state": state,
        "host": "node-1",
        "host_id": UUID,
        "instance_uuid": UUID,
        "accepted_at": "2026-11-21T10:15:00.000000Z",
        "step": None,
        "progress": None,
        "error": None,
        **ended,
        **more,
    }


class FakeApi:
    """Answers what it was told to, and remembers what was asked.

    :ivar answers: by verb or question: an answer, an exception, or a list of them for one after another
    :ivar records: what a wait for an operation sees, one after another
    """

    host = "node-1"

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.records: list[Any] = [operation("succeeded")]
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.waited: list[tuple[str, float | None]] = []
        self.closed = False

    def _answer(self, way: str, name: str, arguments: dict[str, Any]) -> Any:
        self.asked.append((way, name, arguments))
        found = self.answers.get(name, operation() if way != "ask" else {"as_of": AS_OF})
        answer = found.pop(0) if isinstance(found, list) else found
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def cast(self, verb: str, /, **arguments: Any) -> str:
        self._answer("cast", verb, arguments)
        return str(arguments["operation_id"])

    def call(self, verb: str, /, **arguments: Any) -> dict[str, Any]:
        return dict(self._answer("call", verb, arguments))

    def ask(self, question: str, /, **arguments: Any) -> dict[str, Any]:
        return dict(self._answer("ask", question, arguments))

    def wait(
        self,
        operation_id: str,
        timeout: float | None = None,
        on_progress: Callable[[dict[str, Any]], object] | None = None,
    ) -> dict[str, Any]:
        self.waited.append((operation_id, timeout))
        for record in self.records:
            if isinstance(record, BaseException):
                raise record
            if on_progress is not None:
                on_progress(record)
        return dict(self.records[-1])

    def close(self) -> None:
        self.closed = True


@dataclasses.dataclass
class Run:
    """How a run of the command went."""

    status: int
    out: str
    err: str
    settings: Settings | None

    @property
    def json(self) -> Any:
        """The answer, with ``--format json``."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error, with ``--format json``."""
        return json.loads(self.err.splitlines()[-1])


@pytest.fixture
def api() -> FakeApi:
    """The agent."""
    return FakeApi()


@pytest.fixture
def run(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run the command."""

    def run(*arguments: str) -> Run:
        seen: list[Settings] = []

        def connect(settings: Settings) -> FakeApi:
            seen.append(settings)
            return api

        try:
            status = ctl.main(arguments, connect=connect)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return Run(status, out, err, seen[0] if seen else None)

    return run

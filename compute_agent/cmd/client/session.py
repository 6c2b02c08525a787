# SPDX-License-Identifier: Apache-2.0
"""What a sub-command works with: the agent's interface, the chosen format, the terminal."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from compute_agent.cmd.client import output
from compute_agent.model.errors import Error

Record = dict[str, Any]

DONE, FAILED, USAGE, CANCELLED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit statuses."""


class Api(Protocol):
    """What is used of :class:`compute_agent.rpc.ComputeAPI`."""

    host: str

    def cast(self, verb: str, /, **arguments: Any) -> str:
        """Send a verb; return its operation's id."""

    def call(self, verb: str, /, **arguments: Any) -> Record:
        """Send a verb; return its operation's record."""

    def ask(self, question: str, /, **arguments: Any) -> Record:
        """Ask a question; return the answer."""

    def wait(
        self,
        operation_id: str,
        timeout: float | None = None,
        on_progress: Callable[[Record], object] | None = None,
    ) -> Record:
        """Return an operation's record once it has ended."""

    def close(self) -> None:
        """Disconnect."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where the agent is, and how to talk to it.

    :ivar host: the agent's host; None: from the environment or the configuration
    :ivar config_file: its ``[DEFAULT] transport_url`` and ``[oslo_messaging_rabbit]`` apply
    :ivar timeout: seconds to wait for the broker and for an answer
    """

    host: str | None = None
    transport_url: str | None = None
    config_file: str | None = None
    timeout: float = 30.0
    as_json: bool = False


Connect = Callable[[Settings], Api]


@dataclasses.dataclass
class Session:
    """One run of the command. The connection is made when it is first used."""

    settings: Settings
    connect: Connect
    out: TextIO = dataclasses.field(default_factory=lambda: sys.stdout)
    err: TextIO = dataclasses.field(default_factory=lambda: sys.stderr)

    @functools.cached_property
    def api(self) -> Api:
        """The agent."""
        return self.connect(self.settings)

    def close(self) -> None:
        """Disconnect, if there was a connection."""
        if "api" in self.__dict__:
            self.api.close()

    def hurry(self, timeout: float | None) -> None:
        """Let no request take longer than ``timeout`` seconds. Before the first one."""
        if timeout is not None:
            shortest = min(timeout, self.settings.timeout)
            self.settings = dataclasses.replace(self.settings, timeout=shortest)

    def show(self, answer: Record) -> None:
        """Print an answer in the chosen format."""
        if self.settings.as_json:
            self.line(json.dumps(answer, ensure_ascii=False, indent=2))
        else:
            for line in output.answer(answer, output.width(self.out)):
                self.line(line)

    def line(self, text: str) -> None:
        """Print a line of the answer."""
        print(text, file=self.out, flush=True)

    def note(self, text: str) -> None:
        """Print a remark beside the answer."""
        print(text, file=self.err, flush=True)

    def complain(self, error: Error) -> None:
        """Print an error in the chosen format."""
        if self.settings.as_json:
            self.note(json.dumps(output.plain(error), ensure_ascii=False))
        else:
            for line in output.error(error):
                self.note(line)

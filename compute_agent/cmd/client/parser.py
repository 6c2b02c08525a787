# SPDX-License-Identifier: Apache-2.0
"""The command line: the command's own options, and a sub-command per verb and question.

A sub-command gets its options only when it is the one that was typed: there are too many of them to make
all before each start.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from compute_agent.cmd.client import calls, events, operations, options, own, spawning, state, top
from compute_agent.cmd.client.session import DONE, Session, Settings
from compute_agent.model.arguments import VERBS
from compute_agent.model.questions import QUESTIONS

SUMMARIES = pathlib.Path(__file__).with_name("summaries.json")
"""One line per verb and question, generated from the docstrings of what does them."""

Run = Callable[[Session, argparse.Namespace], int]
Fill = Callable[[argparse.ArgumentParser], None]

EPILOG = """\
Exit status: 0 done or succeeded, 1 failed, 2 wrong usage, 3 cancelled, 4 timed out.
Without --host and a transport url: COMPUTE_AGENT_HOST and COMPUTE_AGENT_TRANSPORT_URL, then
/etc/compute-agent/compute-agent.conf. A url holds a password: a file or the environment hides it better.
"""


class LazyParser(argparse.ArgumentParser):
    """A parser whose arguments are added when it is first used."""

    fill: Fill | None = None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As in the base class."""
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)
        return super().parse_known_args(args, namespace)


class ShowVersion(argparse.Action):
    """Shows the version, which is looked up only then: it takes time to read."""

    def __call__(self, parser: argparse.ArgumentParser, *_unused: Any) -> None:
        import compute_agent

        parser.exit(message=f"{parser.prog} {compute_agent.__version__}\n")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Read the command line.

    :return: what was chosen, its ``run`` does it; and where the agent is
    :raises SystemExit: with status 2 and a message for wrong usage
    """
    chosen = build().parse_args(arguments)
    return chosen, own.settings(chosen)


def build() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="compute-agentctl",
        description="Send verbs and questions to the compute agent on a host.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version and exit")
    own.add(parser, default=True)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=LazyParser, title="commands"
    )
    summaries = json.loads(SUMMARIES.read_text(encoding="utf-8"))
    for name in VERBS:
        _command(commands, name, summaries, _fill_verb(name), functools.partial(_run_verb, name))
    for name in QUESTIONS:
        _command(commands, name, summaries, _fill_question(name), functools.partial(_run_question, name))
    for name, (summary, fill, run) in COMPOSED.items():
        _command(commands, name, {name: summary}, fill, run)
    return parser


def _command(commands: Any, name: str, summaries: dict[str, str], fill: Fill, run: Run) -> None:
    summary = summaries.get(name, "").replace("%", "%%")
    made = commands.add_parser(
        name.replace("_", "-"), help=summary, description=summary.replace("%%", "%"), allow_abbrev=False
    )
    made.set_defaults(run=run)
    made.fill = fill


def _fill_verb(name: str) -> Fill:
    def fill(parser: argparse.ArgumentParser) -> None:
        if name == "spawn":
            spawning.add(parser)
        options.add(parser, name, frozenset({"instance"}) if name == "spawn" else frozenset())
        group = parser.add_argument_group("what to wait for (default: until it is in the agent's journal)")
        group.add_argument("--wait", action="store_true", help="follow the operation to its end")
        group.add_argument("--wait-timeout", type=float, metavar="S", help="the same, for S seconds at most")
        group.add_argument("--cast", action="store_true", help="until the broker has it, no longer")
        own.add(parser, taken=_flags(name))
        parser.set_defaults(usage_error=parser.error)

    return fill


def _fill_question(name: str) -> Fill:
    def fill(parser: argparse.ArgumentParser) -> None:
        options.add(parser, name)
        if calls.MARKER in options.fields(name):
            parser.add_argument("--all", action="store_true", help="all pages")
        own.add(parser, taken=_flags(name))

    return fill


def _flags(name: str) -> frozenset[str]:
    return frozenset(options.flag(field) for field in options.fields(name))


def _run_verb(name: str, session: Session, chosen: argparse.Namespace) -> int:
    if name == "spawn" and spawning.missing(chosen, options.given(chosen).get("instance")):
        chosen.usage_error("give --instance, --image or --kernel")
    return calls.verb(session, name, chosen)


def _run_question(name: str, session: Session, chosen: argparse.Namespace) -> int:
    return calls.question(session, name, chosen)


def _fill_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="whose (default: list the names)")
    parser.set_defaults(usage_error=parser.error)


def _schema(session: Session, chosen: argparse.Namespace) -> int:
    from compute_agent.model import schemas

    if chosen.name is None:
        session.line("\n".join(schemas.NAMES))
        return DONE
    name = chosen.name.replace("-", "_")
    if name not in schemas.NAMES:
        chosen.usage_error(f"no schema {chosen.name}; without a name all are listed")
    session.line(json.dumps(schemas.schema(name), indent=2, ensure_ascii=False))
    return DONE


def _with_own(fill: Fill) -> Fill:
    def filled(parser: argparse.ArgumentParser) -> None:
        fill(parser)
        own.add(parser)

    return filled


COMPOSED: dict[str, tuple[str, Fill, Run]] = {
    "events": ("What happened on the host; with --follow what happens.", _with_own(events.add), events.run),
    "operations": ("List, show, cancel and watch operations.", operations.add, operations.run),
    "top": ("The host at a glance, again and again.", _with_own(top.add), top.run),
    "state": ("Copy the state file of the agent on this machine.", state.add, state.run),
    "schema": ("The JSON Schema of a verb, a question or what is told.", _fill_schema, _schema),
}
"""Sub-commands that are neither a verb nor a question."""

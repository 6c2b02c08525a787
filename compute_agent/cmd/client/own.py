# SPDX-License-Identifier: Apache-2.0
"""The command's own options: where the agent is, and how to show what it says.

They may stand before the sub-command or after it; where a verb has an argument of the same name, after it
stands the verb's.
"""

import argparse
from typing import Any

from compute_agent.cmd.client.session import Settings

PREFIX = "ctl_"

OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("--host", "the agent's host", {"metavar": "HOST"}),
    ("--format", "of answers and errors (default: table)", {"choices": ("table", "json")}),
    ("--timeout", "seconds to wait for broker and answer", {"type": float, "metavar": "S"}),
    ("--config-file", "a configuration file with transport_url", {"metavar": "FILE"}),
    ("--transport-url", "rabbit://user:password@broker:5672/", {"metavar": "URL"}),
)


def add(
    parser: argparse.ArgumentParser, *, taken: frozenset[str] = frozenset(), default: bool = False
) -> None:
    """Give ``parser`` the command's own options.

    :param taken: options that are a verb's, and left out
    :param default: this is where they get their defaults
    """
    group = parser.add_argument_group("where and how")
    for flag, text, details in OPTIONS:
        if flag not in taken:
            group.add_argument(
                flag,
                dest=f"{PREFIX}{flag[2:].replace('-', '_')}",
                help=text,
                default=None if default else argparse.SUPPRESS,
                **details,
            )


def settings(chosen: argparse.Namespace) -> Settings:
    """Return what the options say."""
    given = {
        name.removeprefix(PREFIX): value
        for name, value in vars(chosen).items()
        if name.startswith(PREFIX) and value is not None
    }
    return Settings(as_json=given.pop("format", None) == "json", **given)

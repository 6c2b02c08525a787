# SPDX-License-Identifier: Apache-2.0
"""``state``: copies of the state file of the agent on this very machine.

Neither the agent nor the broker is asked, so it works whether or not they run.
"""

import argparse
import os
from typing import Any

from compute_agent.cmd.client import own
from compute_agent.cmd.client.connection import DEFAULT_CONFIG
from compute_agent.cmd.client.session import DONE, Session


def add(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the sub-commands."""
    commands = parser.add_subparsers(dest="state_command", required=True, metavar="COMMAND")
    text = (
        "Copy the state file, consistently, while the agent runs or not. Put back, the copy is known as one: "
        "what had not ended in it is not done again, and a new epoch begins."
    )
    made = commands.add_parser("backup", help="copy the state file", description=text, allow_abbrev=False)
    made.add_argument("path", metavar="PATH", help="a new file, or a directory to put it in")
    made.add_argument("--state-path", metavar="DIR", help="the agent's (default: as its configuration says)")
    own.add(made)


def run(session: Session, chosen: argparse.Namespace) -> int:
    """Do what was chosen; there is one thing to choose."""
    from compute_agent.store import copying

    state_path = chosen.state_path or _configured(session.settings.config_file)
    made = copying.backup(state_path, chosen.path)
    session.show({"copied": str(made), "bytes": made.stat().st_size})
    return DONE


def _configured(path: str | None) -> str:
    """Return the agent's ``state_path``."""
    if path is None and os.path.exists(DEFAULT_CONFIG):
        path = DEFAULT_CONFIG
    from compute_agent.conf import CONF

    conf: Any = CONF
    conf([], project="compute-agent", default_config_files=[path] if path else [], default_config_dirs=[])
    return str(conf.state_path)

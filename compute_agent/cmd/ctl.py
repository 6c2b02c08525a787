# SPDX-License-Identifier: Apache-2.0
"""``compute-agentctl``: the command for people."""

import argparse
import os
import sys
from collections.abc import Sequence

from compute_agent.cmd.client import parser, problems
from compute_agent.cmd.client.connection import connect
from compute_agent.cmd.client.session import CANCELLED, FAILED, INTERRUPTED, TIMED_OUT, Connect, Session
from compute_agent.model import errors

STATUSES = {errors.Cancelled.code: CANCELLED, errors.Timeout.code: TIMED_OUT}
"""Exit statuses by the code of an error; any other is FAILED."""


def main(arguments: Sequence[str] | None = None, connect: Connect = connect) -> int:
    """Do what the command line says; return the exit status.

    :param connect: makes the agent's interface from the settings
    """
    try:
        chosen, settings = parser.parse(arguments)
    except KeyboardInterrupt:  # at a prompt
        print(file=sys.stderr)
        return INTERRUPTED
    return _run(chosen, Session(settings, connect))


def _run(chosen: argparse.Namespace, session: Session) -> int:
    try:
        status: int = chosen.run(session, chosen)
        return status
    except KeyboardInterrupt:
        session.note("interrupted; what was sent goes on")
        return INTERRUPTED
    except BrokenPipeError:
        return _pipe_closed()
    except Exception as error:
        if not problems.known(error):
            raise
        found = problems.problem(error)
        session.complain(found)
        return STATUSES.get(found.code, FAILED)
    finally:
        session.close()


def _pipe_closed() -> int:
    """Whoever read the output has seen enough: end without a word."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""``compute-agent``: the daemon."""

from compute_agent import concurrency

concurrency.patch()  # before everything that it changes is imported

import logging
import sqlite3
import sys
from collections.abc import Sequence

from oslo_config import cfg
from oslo_log import log as oslo_log

from compute_agent import notify
from compute_agent.conf import CONF, checking
from compute_agent.manager.versions import agent_version

LOG = logging.getLogger(__name__)

PROJECT = "compute-agent"
EX_CONFIG = 78
"""Exit status (sysexits.h) of a start that will not go better next time; systemd does not try again."""
CLI = [cfg.BoolOpt("check-config", default=False, help="Read every option, say what is wrong, and end.")]
QUIET = {
    "oslo.messaging": "WARN",
    "oslo_messaging": "WARN",
    "amqp": "WARN",
    "kombu": "WARN",
    "oslo.service": "WARN",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; return its exit status."""
    notify.take_over()
    oslo_log.register_options(CONF)
    oslo_log.set_defaults(default_log_levels=[f"{name}={level}" for name, level in QUIET.items()])
    CONF.register_cli_opts(CLI)
    try:
        CONF(arguments, project=PROJECT, version=agent_version())
    except cfg.Error as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EX_CONFIG
    if CONF.check_config:
        from compute_agent.rpc.transport import create_transport

        create_transport(CONF)  # registers the options of oslo.messaging
        return checking.report(CONF)
    # oslo.config looks at a value when it is first read, which may be days later, within an operation.
    if wrong := list(checking.wrong_values(CONF)):
        print("\n".join(wrong), file=sys.stderr)
        return EX_CONFIG
    checking.keep_good_values(CONF)
    oslo_log.setup(CONF, PROJECT)
    return _run()


def _run() -> int:
    from compute_agent import service
    from compute_agent.store.directory import Unusable
    from compute_agent.store.schema import Incompatible

    try:
        service.run()
    except (Unusable, Incompatible, sqlite3.Error) as error:
        LOG.critical("the agent can't start: %s", error)
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The configuration: can it be read, is every value one that the agent takes, and who else can read it?"""

import os
import stat
from collections.abc import Sequence
from typing import Any

from compute_agent.cmd.checks.finding import Finding, Findings, error, good, warning

ABOUT = "configuration"


def load(files: Sequence[str], directories: Sequence[str]) -> tuple[Any, list[Finding]]:
    """Read the configuration as the agent would.

    :return: the options, or None when they can't be read; and what was found
    """
    try:
        from oslo_config import cfg
        from oslo_log import log
        from oslo_messaging import MessagingException

        from compute_agent.conf import CONF
        from compute_agent.rpc.transport import create_transport
    except ImportError as missing:
        remedy = "install the agent into an environment of its own: pip install 'compute-agent[libvirt]'"
        return None, [error("libraries", f"can't be imported: {missing}", remedy)]
    given: dict[str, Any] = {}
    if files:
        given["default_config_files"] = list(files)
    if directories:
        given["default_config_dirs"] = list(directories)
    try:
        log.register_options(CONF)
        CONF([], project="compute-agent", **given)
        create_transport(CONF)  # registers the options of oslo.messaging
    except (cfg.Error, ValueError, MessagingException) as wrong:
        return None, [error(ABOUT, " ".join(str(wrong).split()), "correct the file, or its permissions")]
    return CONF, []


def check(conf: Any) -> Findings:
    """Every value, and the permissions of the files."""
    from compute_agent.conf.checking import problems

    found = list(problems(conf))
    yield from (error(ABOUT, problem, "see etc/compute-agent.conf.sample") for problem in found)
    paths = list(conf.config_file or [])
    if not paths:
        yield warning(
            ABOUT,
            "no configuration file: all values are defaults",
            "write /etc/compute-agent/compute-agent.conf",
        )
    elif not found:
        yield good(ABOUT, f"read from {', '.join(paths)}")
    yield from (finding for path in paths for finding in _closed(path))


def _closed(path: str) -> Findings:
    if stat.S_IMODE(os.stat(path).st_mode) & stat.S_IROTH:
        yield warning(
            ABOUT,
            f"{path} can be read by everyone, and may hold the broker's password",
            f"chmod 0640 {path}",
        )

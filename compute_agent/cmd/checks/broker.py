# SPDX-License-Identifier: Apache-2.0
"""The broker: can it be reached, does it let us in, does anybody serve this host's queue?"""

import contextlib
import socket
from typing import Any

from compute_agent.cmd.checks.finding import Findings, Late, error, good, warning, within

ABOUT = "broker"
CONNECT_S = 3.0
LOGIN_S = 15.0


def check(conf: Any) -> Findings:
    """Every host of the transport url, then a login."""
    from compute_agent.rpc import link
    from compute_agent.rpc.transport import create_transport

    transport = create_transport(conf)
    if not conf.transport_url:
        yield warning(ABOUT, "transport_url is not set: a broker on this machine is used", "set it")
    _scheme, names, _virtual_host = link.hosts(transport)
    failures = {name: failure for name in names if (failure := _unreachable(name))}
    for name, failure in failures.items():
        level = error if len(failures) == len(names) else warning
        yield level(ABOUT, f"{name} can't be reached: {failure}", "start it, or correct transport_url")
    if len(failures) < len(names):
        yield from _login(conf, transport)


def _unreachable(name: str) -> str | None:
    """Return why no connection can be made to ``host:port``; None if one can."""
    host, _, port = name.rpartition(":")
    try:
        with contextlib.closing(socket.create_connection((host.strip("[]"), int(port)), CONNECT_S)):
            return None
    except OSError as failure:
        return str(failure)


def _login(conf: Any, transport: Any) -> Findings:
    from compute_agent.rpc import link
    from compute_agent.rpc.consumer import count_consumers
    from compute_agent.rpc.names import queue_of
    from compute_agent.rpc.transport import describe

    queue = queue_of(conf.host_name)
    try:
        consumers = within(LOGIN_S, lambda: count_consumers(transport, queue))
    except (*link.LOST, Late) as failure:
        yield error(
            ABOUT,
            f"{describe(transport)} does not let us in: {failure}",
            "check user, password and virtual host in transport_url, and the user's permissions",
        )
        return
    served = f"{queue} is served" if consumers else f"nobody serves {queue} now"
    yield good(ABOUT, f"{describe(transport)} lets us in; {served}")

# SPDX-License-Identifier: Apache-2.0
"""The way to the broker.

The options are read from the one global ``ConfigOpts``: oslo.messaging registers some of its own
there alone, and fails with any other.
"""

from typing import Any

import oslo_messaging
from oslo_config import cfg

from compute_agent.rpc import link
from compute_agent.rpc.names import (
    ERROR_MODULES,
    EVENTS_KEY,
    EXCHANGE,
    MESSAGE_LIMIT,
    REPLY_LIMIT,
    RPC_VERSION,
    TOPIC,
    queue_of,
)

__all__ = [
    "EVENTS_KEY",
    "EXCHANGE",
    "MESSAGE_LIMIT",
    "REPLY_LIMIT",
    "RPC_VERSION",
    "TOPIC",
    "create_transport",
    "describe",
    "queue_of",
    "set_defaults",
]

DEFAULTS = {
    # Durable and replicated; where the exchange stands otherwise it fails loudly instead of degrading.
    "rabbit_quorum_queue": True,
    # Bounds what is unacknowledged, and so what waits for the journal's commit.
    "rabbit_qos_prefetch_count": 64,
    # The longest pause between two attempts to connect, in seconds.
    "rabbit_interval_max": 10,
}


def set_defaults() -> None:
    """Make our defaults those of this process's oslo.messaging options."""
    oslo_messaging.set_transport_defaults(EXCHANGE)
    link.set_rabbit_defaults(**DEFAULTS)


def create_transport(conf: cfg.ConfigOpts = cfg.CONF, url: str | None = None) -> oslo_messaging.Transport:
    """Return the RPC transport that ``conf`` describes. Nothing is connected yet.

    :param conf: the global ``cfg.CONF``
    :param url: instead of ``[DEFAULT] transport_url``
    :raises oslo_messaging.MessagingException: if the url can't be read or its driver not be loaded
    """
    set_defaults()
    return oslo_messaging.get_rpc_transport(conf, url=url, allowed_remote_exmods=ERROR_MODULES)


def describe(transport: Any) -> str:
    """Return where ``transport`` leads, without user names and passwords."""
    scheme, names, virtual_host = link.hosts(transport)
    return f"{scheme}://{','.join(names)}/{virtual_host.strip('/')}"

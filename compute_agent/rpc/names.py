# SPDX-License-Identifier: Apache-2.0
"""The names and limits of the wire, fixed by the interface."""

EXCHANGE = "compute_agent"
TOPIC = "compute"
EVENTS_TOPIC = "compute_events"
EVENTS_KEY = f"{EVENTS_TOPIC}.info"
RPC_VERSION = "1.0"
ERROR_MODULES = ["compute_agent.model.errors"]
"""Modules whose exceptions a client makes again from a failed call's reply."""

MIB = 1024 * 1024
MESSAGE_LIMIT = 8 * MIB
"""Bytes of a message that the agent takes at most."""
REPLY_LIMIT = MIB
"""Bytes of a reply at most."""


def queue_of(host: str) -> str:
    """Return the name (and routing key) of the queue of the agent on ``host``."""
    return f"{TOPIC}.{host}"

# SPDX-License-Identifier: Apache-2.0
"""Tells the agents of other hosts what the handshakes of migrations have to say.

Over the same queues as verbs, but not journalled at the other end: each message is told again until it is
answered. So none waits for a broker that is away, and none outlives its use on a queue that nobody reads.
"""

import logging
from typing import Any

import msgspec

from compute_agent.model import errors
from compute_agent.model.peer import METHOD, PeerMessage
from compute_agent.rpc import envelope
from compute_agent.rpc.link import LOST
from compute_agent.rpc.names import EXCHANGE, queue_of
from compute_agent.rpc.sender import Sender, Unroutable

LOG = logging.getLogger(__name__)

SEND_S = 5.0
"""For how long a message is tried, in seconds."""
EXPIRES_S = 60.0
"""After how long the broker may drop one that nobody has read, in seconds."""


class PeerLink:
    """The way to the agents of other hosts. Thread-safe; messages go out one after another."""

    def __init__(self, transport: Any) -> None:
        self._sender = Sender(transport)

    def tell(self, host: str, message: PeerMessage) -> None:
        """Send ``message`` to the agent of ``host``.

        :raises DestinationUnreachable: if that host has no queue (then not retryable), or the broker did not
            take it in time
        """
        request = envelope.request(METHOD, msgspec.to_builtins(message), {})
        try:
            self._sender.send_within(
                SEND_S,
                envelope.wrap(request),
                exchange=EXCHANGE,
                routing_key=queue_of(host),
                mandatory=True,
                expires_after_s=EXPIRES_S,
            )
        except Unroutable as error:
            raise errors.DestinationUnreachable(f"no agent serves host {host}", retryable=False) from error
        except LOST as error:
            raise errors.DestinationUnreachable(
                f"the broker did not take it: {type(error).__name__}"
            ) from error

    def close(self) -> None:
        """Disconnect; a message on its way is lost."""
        self._sender.close()

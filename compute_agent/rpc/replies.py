# SPDX-License-Identifier: Apache-2.0
"""Replies to callers, as oslo.messaging's clients read them.

A caller that is gone costs one attempt and one line in the log: oslo.messaging's own server waits
60 seconds for a missing reply queue to appear, and holds a connection meanwhile. No traceback and
no text of an unexpected exception leaves the agent.
"""

import logging
from typing import Any

import msgspec

from compute_agent.model import errors
from compute_agent.rpc import envelope
from compute_agent.rpc.link import LOST
from compute_agent.rpc.names import REPLY_LIMIT
from compute_agent.rpc.sender import Sender, Unroutable

LOG = logging.getLogger(__name__)

RETRY_S = 10.0
"""For how long a reply is tried while the broker is away, in seconds."""


class Replier:
    """Answers calls. Thread-safe; replies go out one after another."""

    def __init__(self, transport: Any, *, limit: int = REPLY_LIMIT) -> None:
        self._limit = limit
        self._sender = Sender(transport)

    def reply(
        self, reply_q: str, msg_id: str, result: Any = None, error: errors.ComputeError | None = None
    ) -> bool:
        """Send ``result``, or ``error`` if there is one. Raises nothing.

        :param result: of types that JSON can tell; over the limit the caller gets ``MessageTooLarge``
        :return: False when there is nobody to reply to, or no broker
        """
        try:
            self._sender.send_within(
                RETRY_S, self._body(msg_id, result, error), exchange="", routing_key=reply_q, mandatory=True
            )
        except Unroutable:
            LOG.info("the reply to %s was dropped: its queue %s is gone", msg_id, reply_q)
        except LOST as lost:
            LOG.warning("the reply to %s was dropped: %s: %s", msg_id, type(lost).__name__, lost)
        else:
            return True
        return False

    def close(self) -> None:
        """Disconnect; replies on their way are dropped."""
        self._sender.close()

    def _body(self, msg_id: str, result: Any, error: errors.ComputeError | None) -> bytes:
        body = _wrapped(msg_id, result, error)
        if len(body) > self._limit:
            error = errors.MessageTooLarge(f"the reply has {len(body)} bytes, the limit is {self._limit}")
            body = _wrapped(msg_id, None, error)
        return body


def _wrapped(msg_id: str, result: Any, error: errors.ComputeError | None) -> bytes:
    return envelope.wrap(
        {
            "result": result if error is None else None,
            "failure": None if error is None else failure(error),
            "ending": True,
            "_msg_id": msg_id,
            "_unique_id": envelope.fresh_id(),
        }
    )


def failure(error: errors.ComputeError) -> str:
    """Return ``error`` as the JSON text from which a client makes the exception again.

    A client that allows our module gets our class, with all fields; any other can read ``class``,
    ``message`` and ``kwargs``.
    """
    kind = errors.ComputeError.by_code.get(error.code, errors.Internal)
    fields = msgspec.to_builtins(error.to_error())
    return msgspec.json.encode(
        {
            "class": kind.__name__,
            "module": kind.__module__,
            "message": error.message,
            "tb": [],
            "args": [],
            "kwargs": fields,
        }
    ).decode()

# SPDX-License-Identifier: Apache-2.0
"""What events are handed to. The wire's part of it lives in :mod:`compute_agent.rpc.sink`."""

from collections.abc import Sequence
from typing import Any, Protocol


class SinkUnavailable(Exception):
    """The broker did not take all events. Those that it did not confirm are tried again.

    :ivar confirmed: how many of the first ones it has confirmed
    :ivar refused: it is there, but a queue did not take one; it may have taken later ones
    """

    def __init__(self, message: str, confirmed: int = 0, *, refused: bool = False) -> None:
        super().__init__(message)
        self.confirmed = confirmed
        self.refused = refused


class Sink(Protocol):
    """Takes events."""

    def publish(self, event: dict[str, Any], *, context: dict[str, Any], expires_after_s: float) -> None:
        """Hand over an event that nobody needs after ``expires_after_s`` seconds.

        :raises SinkUnavailable: if it was not confirmed
        """

    def publish_all(self, events: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Hand over events with their contexts, in order, and return when all are confirmed.

        :raises SinkUnavailable: if not all were, with how many of the first ones
        """

# SPDX-License-Identifier: Apache-2.0
"""What events are handed to. The wire's part of it lives in :mod:`compute_agent.rpc.sink`."""

from typing import Any, Protocol


class SinkUnavailable(Exception):
    """The broker did not take an event. It is tried again."""


class Sink(Protocol):
    """Takes events, one by one."""

    def publish(
        self, event: dict[str, Any], *, context: dict[str, Any], expires_after_s: float | None = None
    ) -> None:
        """Hand over ``event`` and return when it is confirmed.

        :param expires_after_s: seconds after which nobody needs it any more
        :raises SinkUnavailable: if it was not confirmed
        """

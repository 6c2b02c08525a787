# SPDX-License-Identifier: Apache-2.0
"""What every concern stands on: the constructor, events, and how a member says it is not offered."""

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from compute_agent.model import errors
from compute_agent.model.vif import Vif
from compute_agent.virt.event import Event
from compute_agent.virt.virtapi import VirtAPI

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Context = Any
"""A request context; None where nobody asked."""
NetworkInfo = list[Vif] | None
BlockDeviceInfo = dict[str, Any] | None
"""As made by :func:`compute_agent.virt.block_device.get_block_device_info`."""
InjectedFiles = list[tuple[str, str]] | None
"""Paths in the guest and contents in Base64."""
Listener = Callable[[Event], object]


def unsupported(member: Callable[P, T]) -> Callable[P, T]:
    """Declare a member that a driver has to fill in: as it stands it raises `UnsupportedOperation`.

    The signature and the docstring are kept, so the declaration has no body of its own.
    """

    @functools.wraps(member)
    def refuse(*args: P.args, **kwargs: P.kwargs) -> T:
        driver = type(args[0]).__name__ if args else "the driver"
        raise errors.UnsupportedOperation(f"{driver} does not offer {member.__name__}")

    refuse.__unsupported__ = True  # type: ignore[attr-defined]
    return refuse


def is_unsupported(driver: type, member: str) -> bool:
    """Return whether ``member`` of a driver's class is one that :func:`unsupported` declares."""
    return bool(getattr(getattr(driver, member), "__unsupported__", False))


class Base:
    """The part that all concerns share.

    :param virtapi: what the driver may ask of the agent. Contract: Icehouse, Mitaka, Queens.
    """

    def __init__(self, virtapi: VirtAPI) -> None:
        self.virtapi = virtapi
        self._compute_event_callback: Listener | None = None

    def register_event_listener(self, callback: Listener | None) -> None:
        """Have ``callback`` called with every event from now on; None: nobody listens any more.

        It is called in a greenthread and must not wait: putting the event on a queue is all
        that belongs there.

        Contract: Icehouse, Mitaka, Queens.
        """
        self._compute_event_callback = callback

    def emit_event(self, event: Event) -> None:
        """Hand an event to the listener. What the listener raises is logged and goes no further.

        Called from greenthreads only, never from a hypervisor's own thread. Without a listener
        the event is logged and dropped.

        :raises ValueError: if ``event`` is not an :class:`Event`

        Contract: Icehouse, Mitaka, Queens.
        """
        if not isinstance(event, Event):
            raise ValueError(f"not an event: {event!r}")
        if self._compute_event_callback is None:
            LOG.debug("nobody listens, so an event is dropped: %s", event)
            return
        try:
            self._compute_event_callback(event)
        except Exception:
            LOG.exception("the listener failed on %s", event)

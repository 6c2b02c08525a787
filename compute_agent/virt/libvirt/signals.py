# SPDX-License-Identifier: Apache-2.0
"""What libvirt tells of a guest's devices and block jobs, brought to whoever waits for it.

Unlike lifecycle events these concern nobody but the operation that caused them. Whoever is about to cause
one listens first, so that none can be missed; an event may still get lost while the connection is down, so a
listener is also rung when the connection has come back, and then looks for itself.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

from compute_agent import concurrency


@dataclasses.dataclass(frozen=True)
class DeviceSignal:
    """A device left its guest (``removed``), or the guest would not let it go. ``name`` is its alias."""

    uuid: str
    name: str
    removed: bool


@dataclasses.dataclass(frozen=True)
class JobSignal:
    """A block job changed: libvirt's numbers of its kind and its status. ``name`` is the disk's target."""

    uuid: str
    name: str
    kind: int
    status: int


Signal = DeviceSignal | JobSignal


class Listener:
    """What was told since somebody began to listen.

    :ivar rung: set by each signal, and when the connection came back; :meth:`take` clears it
    """

    def __init__(self) -> None:
        self.rung = concurrency.Event()
        self._heard: list[Signal] = []

    def hear(self, signal: Signal) -> None:
        """Keep a signal and ring."""
        self._heard.append(signal)
        self.rung.set()

    def take(self) -> list[Signal]:
        """Return what was heard since the last time, and wait anew."""
        heard, self._heard = self._heard, []
        self.rung.clear()
        return heard


class Signals:
    """Who listens to what. Used in the hub's thread only."""

    def __init__(self) -> None:
        self._listeners: dict[tuple[str, str], list[Listener]] = {}

    def handle(self, signal: Signal) -> None:
        """Bring a signal to its listeners; what nobody waits for is dropped."""
        for listener in self._listeners.get((signal.uuid, signal.name), ()):
            listener.hear(signal)

    def ring_all(self) -> None:
        """Let every listener look for itself: signals may have been lost."""
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.rung.set()

    @contextlib.contextmanager
    def listening(self, uuid: str, name: str) -> Iterator[Listener]:
        """Listen to what happens to a device (by its alias) or to a disk's jobs (by its target)."""
        listener, key = Listener(), (uuid, name)
        self._listeners.setdefault(key, []).append(listener)
        try:
            yield listener
        finally:
            self._listeners[key].remove(listener)
            if not self._listeners[key]:
                del self._listeners[key]

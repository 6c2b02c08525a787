# SPDX-License-Identifier: Apache-2.0
"""A hypervisor of few words: who made, removed or changed what, and how often. It outlives every agent.

Each act says for which operation it is done. What is done twice, or taken away twice, without having been
undone in between stands in `wrong` at once.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

PARTS = ("disk", "port", "guest")


@dataclasses.dataclass
class Guest:
    """What there is of an instance."""

    parts: dict[str, str] = dataclasses.field(default_factory=dict)
    """Who made each."""
    paused: bool = False


class World:
    """All guests, and the ledger of what was done to them."""

    def __init__(self) -> None:
        self.guests: dict[str, Guest] = {}
        self.done: Counter[tuple[str, str]] = Counter()
        """How often each (operation, effect) was brought about, less the times that it was undone."""
        self.wrong: list[str] = []

    def guest(self, uuid: str) -> Guest:
        return self.guests.setdefault(uuid, Guest())

    def has(self, uuid: str, part: str) -> bool:
        return part in self.guest(uuid).parts

    def make(self, operation_id: str, uuid: str, part: str) -> None:
        if self.has(uuid, part):
            self.wrong.append(f"{operation_id} made the {part} of {uuid}, which is there")
        self.guest(uuid).parts[part] = operation_id
        self._did(operation_id, f"make {part}")

    def unmake(self, operation_id: str, uuid: str, part: str) -> None:
        """Undo what an operation made; what is not there, or is another's, stays as it is."""
        if self.guest(uuid).parts.get(part) == operation_id:
            del self.guest(uuid).parts[part]
            self.done[operation_id, f"make {part}"] -= 1

    def remove(self, operation_id: str, uuid: str, part: str) -> None:
        if self.guest(uuid).parts.pop(part, None) is None:
            self.wrong.append(f"{operation_id} removed the {part} of {uuid}, which is not there")
        self.guest(uuid).paused = False
        self._did(operation_id, f"remove {part}")

    def pause(self, operation_id: str, uuid: str, paused: bool) -> None:
        self.guest(uuid).paused = paused
        self._did(operation_id, "pause" if paused else "unpause")

    def set_password(self, operation_id: str) -> None:
        self._did(operation_id, "password")

    def _did(self, operation_id: str, effect: str) -> None:
        self.done[operation_id, effect] += 1
        if self.done[operation_id, effect] > 1:
            self.wrong.append(f"{operation_id} did it twice: {effect}")

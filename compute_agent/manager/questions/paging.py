# SPDX-License-Identifier: Apache-2.0
"""As much of a list as one reply holds: a page never fails for being too large."""

from typing import Any

import msgspec

REPLY_ROOM = 900_000
"""Bytes that the items of one answer take at most on the wire, below the limit of a reply."""


def size(item: dict[str, Any]) -> int:
    """Return how many bytes ``item`` takes on the wire, where it is JSON within a JSON string."""
    return len(msgspec.json.encode(msgspec.json.encode(item).decode()))


def that_fit(items: list[dict[str, Any]], room: int = REPLY_ROOM) -> list[dict[str, Any]]:
    """Return the first of ``items`` that fit into ``room`` bytes together."""
    for number, item in enumerate(items):
        room -= size(item)
        if room < 0:
            return items[:number]
    return items


def page_of(items: list[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of ``items``, of which there is at most one more than ``limit``, and whether more follow.

    It holds one at least, so that whoever pages gets on.
    """
    page = that_fit(items[:limit]) or items[:1]
    return page, len(page) < len(items)

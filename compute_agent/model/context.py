# SPDX-License-Identifier: Apache-2.0
"""The request context that travels with an operation and its events.

Only what is listed here is kept from a message; tokens and the rest are dropped on
arrival, before anything is stored or logged.
"""

from collections.abc import Mapping
from typing import Any

KEPT = ("request_id", "project_id", "user_id")
EXTENSION_PREFIX = "x_"
VALUE_LIMIT = 1024
"""Characters of one kept value; longer ones are cut off."""


def keep(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a message's context that is stored and returned with every event."""
    return {
        key: str(value)[:VALUE_LIMIT] if key in KEPT else _plain(value)
        for key, value in context.items()
        if value is not None and (key in KEPT or key.startswith(EXTENSION_PREFIX))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    return str(value)[:VALUE_LIMIT]

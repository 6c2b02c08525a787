# SPDX-License-Identifier: Apache-2.0
"""The golden files of the wire, ``docs/wire/*.json``.

Nothing generates them: whoever changes one changes the interface.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

DIRECTORY = pathlib.Path(__file__).resolve().parents[3] / "docs" / "wire"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
EVENTS = [name for name in NAMES if name.startswith("event.")]


def read(name: str) -> dict[str, Any]:
    """One golden file: what, exchange, routing_key, properties, body and the decoded message."""
    found: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return found

# SPDX-License-Identifier: Apache-2.0
"""Descriptions of instances, as a scheduler sends them with `spawn`."""

from __future__ import annotations

import pathlib
import uuid as uuids
from typing import Any


def describe(image: pathlib.Path | None = None, *, uuid: str | None = None, **fields: Any) -> dict[str, Any]:
    """A small instance that boots from `image` (by its suffix raw or qcow2); `fields` are put over it."""
    description: dict[str, Any] = {
        "uuid": uuid or str(uuids.uuid4()),
        "flavor": {"vcpus": 1, "memory_mb": 16, "root_gb": 0},
    }
    if image is not None:
        disk_format = "qcow2" if image.suffix == ".qcow2" else "raw"
        description["image"] = {"id": str(uuids.uuid4()), "url": image.as_uri(), "disk_format": disk_format}
    return description | fields

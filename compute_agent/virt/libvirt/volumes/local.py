# SPDX-License-Identifier: Apache-2.0
"""``local``: a file or a block device of this host. ``data``: ``device_path`` (or ``path``), ``format``."""

from collections.abc import Mapping
from typing import Any

from compute_agent.virt.libvirt.volumes import checks
from compute_agent.virt.libvirt.volumes.place import Place

FORMATS = ("raw", "qcow2")
"""Of files; a device is always raw."""


def read(data: Mapping[str, Any]) -> Place:
    """Return where the volume is."""
    path = checks.path(checks.needed(data, "device_path", "path"), "device_path")
    block = path.startswith("/dev/")
    return Place(path=path, block=block, format="raw" if block else file_format(data))


def file_format(data: Mapping[str, Any]) -> str:
    """Return the format of a volume's file, as its storage service says: it is never guessed."""
    found = checks.text(data, "format") or "raw"
    if found not in FORMATS:
        raise checks.wrong("format", f"is none of {', '.join(FORMATS)}")
    return found

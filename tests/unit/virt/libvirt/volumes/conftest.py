# SPDX-License-Identifier: Apache-2.0
"""The configuration that volumes are read under."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compute_agent.conf import CONF
from tests.unit.virt.libvirt.volumes.infos import ALLOWED


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Volumes may be below two directories; the names of host and initiator are known."""
    CONF.set_override("allowed_paths", [ALLOWED, "/dev/vg0/"], "volumes")
    CONF.set_override("iscsi_initiator", "iqn.2025-01.org.compute-agent:test", "volumes")
    CONF.set_override("nfs_mount_point_base", "/var/lib/compute-agent/mnt", "volumes")
    yield
    for name in ("allowed_paths", "iscsi_initiator", "nfs_mount_point_base"):
        CONF.clear_override(name, "volumes")

# SPDX-License-Identifier: Apache-2.0
"""What comes from the other host is let through only if it can do no harm."""

from __future__ import annotations

from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.migration import details

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
TO: dict[str, Any] = {"address": "10.0.0.2", "instances_path": "/srv", "mark": "shared_storage_mark_0"}
FROM: dict[str, Any] = {"runs": True}
DISK: dict[str, Any] = {"target": "vda", "name": "disk", "format": "raw", "size_bytes": 1}
FILE: dict[str, Any] = {"name": "disk.config", "mode": 0o600, "sha256": "0" * 64, "packed": "AAAA"}


def _data(**parts: Any) -> LiveMigrateData:
    return LiveMigrateData(instance_uuid=UUID, details=parts)


def test_what_is_written_is_read_again() -> None:
    said = details.Details(
        asked=None,
        destination=details.Destination(**TO),
        source=details.Source(runs=False, disks=[details.MovedDisk(**DISK)]),
    )
    assert details.read(details.write(_data(), said)) == said


@pytest.mark.parametrize(
    "parts",
    [
        {"destination": TO | {"address": "10.0.0.2/evil?x"}},
        {"destination": TO | {"address": "-oProxyCommand=evil"}},
        {"destination": TO | {"instances_path": "srv"}},
        {"destination": TO | {"instances_path": "/srv\n"}},
        {"destination": TO | {"mark": "../mark"}},
        {"destination": TO | {"bridges": {"02:00:00:00:00:01": "br0'/>"}}},
        {"destination": TO | {"filters": {"02:00:00:00:00:01": "clean-traffic"}}},
        {"destination": TO | {"filters": {"02:00:00:00:00:01": f"compute-agent-{UUID}-tap0'/><x y='"}}},
        {"source": FROM | {"disks": [DISK | {"name": "../../etc/passwd"}]}},
        {"source": FROM | {"disks": [DISK | {"name": ".hidden"}]}},
        {"source": FROM | {"disks": [DISK | {"format": "vmdk"}]}},
        {"source": FROM | {"disks": [DISK | {"target": "vda;rm"}]}},
        {"source": FROM | {"files": [FILE | {"name": "a/b"}]}},
        {"source": FROM | {"files": [FILE | {"mode": 0o4755}]}},
        {"source": FROM | {"machine": "q35' x='"}},
    ],
)
def test_what_could_do_harm_is_not_read(parts: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArguments):
        details.read(_data(**parts))


def test_an_end_that_said_nothing_is_an_error() -> None:
    with pytest.raises(errors.InvalidArguments, match="the source of the migration has not been checked"):
        details.source(_data(destination=TO))

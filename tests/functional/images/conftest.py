# SPDX-License-Identifier: Apache-2.0
"""One agent for all images: its guests are many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.functional.serving import Served, bridged, serving
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor) -> Iterator[Served]:
    """An agent with real guests."""
    with serving(request, broker, hypervisor) as one:
        yield one


@pytest.fixture(scope="module")
def bridge() -> Iterator[str]:
    """A bridge of the host, for as long as the module takes."""
    with bridged() as name:
        yield name

# SPDX-License-Identifier: Apache-2.0
"""Where the crash matrix runs, shared by its tests."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.agents import Zygote
from tests.chaos.fake import FakeGround
from tests.rig.broker import Broker


@pytest.fixture(scope="session")
def fake_ground(rig: Callable[[Any], Any], broker: Broker) -> FakeGround:
    """The fake driver, with a zygote of its own."""
    return FakeGround(rig(Zygote(*FakeGround.modules)), broker)

# SPDX-License-Identifier: Apache-2.0
"""Two agents with fake hosts."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from tests.rig.agent import Agent
from tests.rig.pair import Pair
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender


@pytest.fixture
def pair(
    tmp_path: pathlib.Path,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    receiver: Receiver,
) -> Callable[..., Pair]:
    """Make two agents, not started; the arguments are options of `[fake]`."""
    return lambda **fake: Pair(tmp_path, agent, sender, receiver, **fake)

# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the functional tests: one running agent with real guests, and someone to talk to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.rig.agent import Agent
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender


@pytest.fixture
def qemu_agent(receiver: Receiver, agent: Callable[..., Agent]) -> Agent:
    """A running agent with the libvirt driver; `receiver` hears it from its first event on."""
    return agent(hypervisor=True)


@pytest.fixture
def fake_agent(receiver: Receiver, agent: Callable[..., Agent]) -> Agent:
    """A running agent with the fake driver; `receiver` hears it from its first event on."""
    return agent()


@pytest.fixture
def to_qemu_agent(qemu_agent: Agent, sender: Callable[[Agent], Sender]) -> Sender:
    """A sender to `qemu_agent`."""
    return sender(qemu_agent)


@pytest.fixture
def to_fake_agent(fake_agent: Agent, sender: Callable[[Agent], Sender]) -> Sender:
    """A sender to `fake_agent`."""
    return sender(fake_agent)

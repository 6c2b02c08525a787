# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the functional tests: one running agent with real guests, and someone to talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from compute_agent.conf import CONF
from tests.functional.serving import Served, bridged, serving
from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender


@pytest.fixture
def filtered_by_others() -> Iterator[None]:
    """The drivers of this process leave packet filters to somebody else."""
    CONF.set_override("filter_driver", "none", "libvirt")
    yield
    CONF.clear_override("filter_driver", "libvirt")


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


@pytest.fixture
def alone(qemu_agent: Agent, to_qemu_agent: Sender, receiver: Receiver, hypervisor: Hypervisor) -> Served:
    """An agent with real guests that one test has for itself, to stop and to harm."""
    return Served(qemu_agent, to_qemu_agent, receiver, hypervisor)


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor) -> Iterator[Served]:
    """An agent with real guests that a module's tests share."""
    with serving(request, broker, hypervisor) as one:
        yield one


@pytest.fixture(scope="module")
def bridge() -> Iterator[str]:
    """A bridge of this host; its name."""
    with bridged() as name:
        yield name

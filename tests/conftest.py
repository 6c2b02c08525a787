# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the real parts, shared by the functional, lab and chaos tests.

Broker and hypervisor are started once per session (once per worker of pytest-xdist) when a test first
asks for them, and are mended before the next test if one left them broken. What a failing test used is
shown with its report. The tests' own process has native threads and is never patched for greenthreads.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from tests.rig.agent import Agent
from tests.rig.bootsector import Images
from tests.rig.broker import Broker
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.part import Part
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

PARTS = pytest.StashKey[list[Part]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PARTS] = []
    _take_signals_again()


def _take_signals_again() -> None:
    """What runs in a shell's background is deaf to Ctrl-C, and so would be all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for deaf_to in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(deaf_to) is signal.SIG_IGN:
            signal.signal(deaf_to, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before each test: what an earlier one stopped, hung or killed serves again."""
    for part in item.config.stash[PARTS]:
        part.ensure()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows the logs of the parts that run."""
    report = yield
    if report.failed:
        for part in item.config.stash[PARTS]:
            report.sections.append((f"rig: {type(part).__name__}", part.evidence()))
    return report


@pytest.fixture(scope="session")
def rig(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """Start a part, show it with failing tests, close it at the session's end."""
    parts = request.config.stash[PARTS]
    started: list[Part] = []

    def start(part: Part) -> Part:
        parts.append(part)
        started.append(part)
        return part.start()

    yield start
    for part in reversed(started):
        part.close()
        parts.remove(part)


@pytest.fixture(scope="session")
def broker(rig: Callable[[Broker], Broker]) -> Broker:
    """A private RabbitMQ node."""
    return rig(Broker())


@pytest.fixture(scope="session")
def hypervisor(rig: Callable[[Hypervisor], Hypervisor]) -> Hypervisor:
    """A private libvirtd, warmed up."""
    return rig(Hypervisor())


@pytest.fixture(scope="session")
def images(hypervisor: Hypervisor) -> Images:
    """The guest images' directory, from which agents may take images."""
    return hypervisor.images


@pytest.fixture
def parts(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """Take charge of a part for one test: shown if the test fails, closed after it."""
    shown = request.config.stash[PARTS]
    taken: list[Part] = []

    def take(part: Part) -> Part:
        shown.append(part)
        taken.append(part)
        return part

    yield take
    for part in reversed(taken):
        part.close()
        shown.remove(part)


@pytest.fixture
def fresh_hypervisor(hypervisor: Hypervisor) -> Iterator[Hypervisor]:
    """The session's hypervisor; domains that the test leaves are removed after it."""
    before = hypervisor.domains()
    yield hypervisor
    hypervisor.ensure()
    hypervisor.destroy_all(but=before)


@pytest.fixture
def agent(
    request: pytest.FixtureRequest, broker: Broker, parts: Callable[[Agent], Agent]
) -> Callable[..., Agent]:
    """Make and start agents: `agent()` has the fake driver, `agent(hypervisor=True)` real guests.

    Further arguments are those of `Agent`; `start=False` leaves it to the test to start it. Agents are
    ended after the test, and the domains that it left are removed.
    """

    def make(*, hypervisor: Hypervisor | bool | None = None, start: bool = True, **options: Any) -> Agent:
        where = request.getfixturevalue("fresh_hypervisor") if hypervisor is True else hypervisor or None
        made = parts(Agent(broker, where, **options))
        return made.start() if start else made

    return make


@pytest.fixture
def receiver(broker: Broker, parts: Callable[[Receiver], Receiver]) -> Receiver:
    """A plain consumer of all events from now on."""
    return parts(Receiver(broker.transport_url)).start()


@pytest.fixture
def sender(broker: Broker) -> Iterator[Callable[[Agent | str], Sender]]:
    """Make plain senders: `sender(agent)`, or `sender("host-name")`."""
    made: list[Sender] = []

    def make(to: Agent | str) -> Sender:
        made.append(Sender(broker.transport_url, to if isinstance(to, str) else to.host))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def guest(fresh_hypervisor: Hypervisor) -> Callable[[str], Guest]:
    """Look at a guest from outside, by its uuid."""
    return lambda uuid: Guest(fresh_hypervisor, uuid)

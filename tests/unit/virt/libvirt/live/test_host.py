# SPDX-License-Identifier: Apache-2.0
"""The gateway, on libvirt's own test driver, which lives in memory."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.steps import Work
from compute_agent.virt.libvirt import faults, host, keeper
from compute_agent.virt.libvirt.host import Host

NOWHERE = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"


class Connected:
    """A gateway, and what it told."""

    def __init__(self, uri: str) -> None:
        self.events: list[Any] = []
        self.states: list[dict[str, int]] = []
        self.changes: list[bool] = []
        self.host = Host(
            uri,
            on_event=self.events.append,
            on_connect=self.states.append,
            on_change=lambda connected, _: self.changes.append(connected),
        )


@pytest.fixture
def connected() -> Iterator[Connected]:
    made = Connected("test:///default")
    made.host.start()
    yield made
    made.host.stop()


@pytest.fixture
def away() -> Iterator[Connected]:
    CONF.set_override("reconnect_interval", 0.05, "libvirt")
    made = Connected(NOWHERE)
    made.host.start()
    yield made
    made.host.stop()
    CONF.clear_override("reconnect_interval", "libvirt")


def _uuid(connection: Any) -> str:
    return str(connection.lookupByName("test").UUIDString())


def test_calls_are_answered(connected: Connected) -> None:
    assert connected.host.connected
    uuid = connected.host.ask(_uuid)
    assert uuid in connected.states[0]
    assert connected.host.ask_guest(uuid, lambda domain, suffix: domain.name() + suffix, "!") == "test!"
    assert connected.host.act_guest(uuid, libvirt.virDomain.isActive) == 1
    assert connected.host.ask_monitor(uuid, libvirt.virDomain.isActive) == 1
    assert connected.changes == []


def test_an_unknown_domain_is_an_instance_that_is_not_found(connected: Connected) -> None:
    with pytest.raises(errors.InstanceNotFound):
        connected.host.ask_guest("00000000-0000-4000-8000-000000000000", libvirt.virDomain.name)


def test_a_call_that_was_cut_off_is_made_again(connected: Connected) -> None:
    calls = []

    def cut_off(connection: Any) -> str:
        calls.append(connection)
        if len(calls) < 3:
            raise faults.ConnectionLost("cut off")
        return "done"

    assert connected.host.ask(cut_off) == "done"
    assert len(calls) == 3


def test_calls_over_their_time_are_given_up_and_counted(connected: Connected) -> None:
    released = threading.Event()
    with steps.working(Work(verb="pause", deadline=time.monotonic() + 0.1)):
        with pytest.raises(errors.Timeout):
            connected.host.act(lambda _: released.wait(30))
        assert connected.host.given_up == 1
        with pytest.raises(errors.Timeout):
            connected.host.ask(_uuid)
    released.set()
    until = time.monotonic() + 5
    while connected.host.given_up and time.monotonic() < until:
        concurrency.sleep(0.01)
    assert connected.host.given_up == 0


def test_each_call_has_a_connection_of_its_own(connected: Connected) -> None:
    """Several calls on one connection are what libvirt's client can't end when its keepalive does."""
    together = threading.Barrier(6)

    def meet(connection: Any) -> int:
        together.wait(10)
        return id(connection)

    used: list[int] = []
    tasks = [concurrency.spawn(lambda: used.append(connected.host.act(meet))) for _ in range(6)]
    for task in tasks:
        task.wait()
    assert len(set(used)) == 6


def test_it_can_be_started_again(connected: Connected) -> None:
    connected.host.stop()
    assert not connected.host.connected
    connected.host.stop()
    assert connected.host.start()
    assert connected.host.ask(_uuid)


def test_a_start_without_libvirt_is_told_once(away: Connected) -> None:
    assert not away.host.connected
    concurrency.sleep(0.3)
    assert away.changes == [False]
    assert away.host.reason


def test_a_question_does_not_wait_long(away: Connected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "QUESTION_S", 0.1)
    with pytest.raises(errors.HypervisorUnavailable) as caught:
        away.host.ask(_uuid)
    assert caught.value.retryable


def test_a_verb_says_what_it_waits_for(away: Connected) -> None:
    work = Work("an-id", "pause", deadline=time.monotonic() + 0.3)
    seen = []
    concurrency.spawn(lambda: (concurrency.sleep(0.1), seen.append(work.waiting_for)))
    with steps.working(work), pytest.raises(errors.HypervisorUnavailable):
        away.host.ask(_uuid)
    assert seen == ["hypervisor"]
    assert work.waiting_for is None


def test_the_back_off_grows_to_a_limit() -> None:
    waits = [keeper.back_off(attempt) for attempt in range(20)]
    assert waits[0] < waits[4]
    assert max(waits) <= keeper.LONGEST_BACK_OFF_S * 1.2

# SPDX-License-Identifier: Apache-2.0
"""Events of drivers, and the way they take."""

import logging
import time

import pytest

from compute_agent.virt import event as virt_event
from compute_agent.virt.driver import ComputeDriver
from compute_agent.virt.fake.virtapi import MemoryVirtAPI

UUID = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def driver() -> ComputeDriver:
    return ComputeDriver(MemoryVirtAPI())


def test_an_event_tells_when() -> None:
    before = time.time()
    assert before <= virt_event.Event().get_timestamp() <= time.time()
    assert virt_event.Event(12.5).get_timestamp() == 12.5


@pytest.mark.parametrize("transition", virt_event.NAMES)
def test_a_lifecycle_event_tells_whose_and_what(transition: int) -> None:
    event = virt_event.LifecycleEvent(UUID, transition, 3.0, origin="guest", detail="why")
    assert event.get_instance_uuid() == UUID
    assert event.get_transition() == transition
    assert event.get_name() == virt_event.NAMES[transition]
    assert event.get_timestamp() == 3.0
    assert (event.origin, event.detail) == ("guest", "why")
    assert UUID in repr(event)
    assert event.get_name() in repr(event)


def test_the_published_numbers_stay() -> None:
    names = (
        "STARTED",
        "STOPPED",
        "PAUSED",
        "RESUMED",
        "SUSPENDED",
        "POSTCOPY_STARTED",
        "MIGRATION_COMPLETED",
    )
    assert [getattr(virt_event, f"EVENT_LIFECYCLE_{name}") for name in names] == list(range(7))


@pytest.mark.parametrize("arguments", [{"transition": 99}, {"transition": 0, "origin": "nobody"}])
def test_what_is_no_transition_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        virt_event.LifecycleEvent(UUID, **arguments)  # type: ignore[arg-type]


def test_a_hypervisor_event_tells_why() -> None:
    event = virt_event.HypervisorEvent(False, "it was stopped")
    assert (event.connected, event.reason, event.get_name()) == (False, "it was stopped", "Disconnected")


def test_the_listener_gets_events(driver: ComputeDriver) -> None:
    heard: list[virt_event.Event] = []
    driver.register_event_listener(heard.append)
    event = virt_event.LifecycleEvent(UUID, virt_event.EVENT_LIFECYCLE_STARTED)
    driver.emit_event(event)
    assert heard == [event]


def test_only_events_are_taken(driver: ComputeDriver) -> None:
    with pytest.raises(ValueError):
        driver.emit_event("started")  # type: ignore[arg-type]


def test_a_listener_that_fails_does_no_harm(driver: ComputeDriver, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: virt_event.Event) -> None:
        raise RuntimeError("no")

    driver.register_event_listener(fail)
    driver.emit_event(virt_event.Event())
    assert "the listener failed" in caplog.text


def test_without_a_listener_an_event_is_logged_and_dropped(
    driver: ComputeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    driver.register_event_listener(lambda event: None)
    driver.register_event_listener(None)
    driver.emit_event(virt_event.LifecycleEvent(UUID, virt_event.EVENT_LIFECYCLE_PAUSED))
    assert UUID in caplog.text

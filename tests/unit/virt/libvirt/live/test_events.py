# SPDX-License-Identifier: Apache-2.0
"""Libvirt's raw sequences, as they were seen on real guests, and what is told of them."""

import libvirt
import pytest

from compute_agent import concurrency
from compute_agent.virt.event import Event, LifecycleEvent
from compute_agent.virt.libvirt import events
from compute_agent.virt.libvirt.connection import RawEvent
from compute_agent.virt.libvirt.events import Relay

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
DEFINED, UNDEFINED = (0, 0), (1, 0)
STARTED, RESTORED, INCOMING = (2, 0), (2, 2), (2, 1)
PAUSED, IO_ERROR, PAUSED_BY_RESTORE, MOVED_AWAY = (3, 0), (3, 2), (3, 4), (3, 1)
RESUMED, RESUMED_BY_RESTORE, ARRIVED = (4, 0), (4, 2), (4, 1)
SHUT_DOWN, DESTROYED, STOPPED_BY_CRASH = (5, 0), (5, 1), (5, 2)
MIGRATED, SAVED, FAILED = (5, 3), (5, 4), (5, 5)
ENDED_BY_GUEST, ENDED_BY_HOST = (6, 1), (6, 2)
PANICKED = (8, 0)

Raw = tuple[int, int]


class Ear:
    """A relay, and what came out of it."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.relay = Relay(self.heard.append)

    def hear(self, *raw: Raw) -> None:
        for event, detail in raw:
            self.relay.handle(RawEvent(UUID, event, detail))

    def told(self) -> list[tuple[str, str]]:
        return [(e.get_name().lower(), e.origin) for e in self.heard if isinstance(e, LifecycleEvent)]


@pytest.fixture
def ear() -> Ear:
    return Ear()


BOOT = [DEFINED, RESUMED, STARTED]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (BOOT, [("started", "host")]),
        ([*BOOT, PAUSED, RESUMED], [("started", "host"), ("paused", "host"), ("resumed", "host")]),
        ([*BOOT, ENDED_BY_HOST, DESTROYED], [("started", "host"), ("stopped", "host")]),
        ([*BOOT, ENDED_BY_GUEST, SHUT_DOWN], [("started", "host"), ("stopped", "guest")]),
        ([*BOOT, ENDED_BY_HOST, SHUT_DOWN], [("started", "host"), ("stopped", "host")]),
        ([*BOOT, SHUT_DOWN], [("started", "host"), ("stopped", "unknown")]),
        ([*BOOT, FAILED], [("started", "host"), ("crashed", "unknown")]),
        ([*BOOT, PANICKED, STOPPED_BY_CRASH], [("started", "host"), ("crashed", "guest")]),
        ([*BOOT, PANICKED, RESUMED], [("started", "host"), ("crashed", "guest"), ("started", "host")]),
        ([*BOOT, IO_ERROR], [("started", "host"), ("paused", "host")]),
        ([*BOOT, MOVED_AWAY, MIGRATED], [("started", "host"), ("migration completed", "host")]),
        ([INCOMING, ARRIVED], [("started", "host")]),
        ([INCOMING, PAUSED], []),
        ([INCOMING, PAUSED, DESTROYED], []),
        ([INCOMING, DESTROYED, *BOOT], [("started", "host")]),
        ([RESTORED, RESUMED_BY_RESTORE], [("resumed", "host")]),
        ([STARTED, PAUSED], [("started", "host"), ("paused", "host")]),
        ([*BOOT, (7, 0), (2, 4)], [("started", "host"), ("paused", "guest"), ("resumed", "guest")]),
        ([(99, 0), (0, 99)], []),
    ],
)
def test_what_happens_by_itself(ear: Ear, raw: list[Raw], told: list[tuple[str, str]]) -> None:
    ear.hear(*raw)
    assert ear.told() == told


def test_each_transition_is_told_once(ear: Ear) -> None:
    ear.hear(*BOOT, STARTED, RESUMED, PAUSED, PAUSED, DESTROYED, DESTROYED)
    assert [name for name, _ in ear.told()] == ["started", "paused", "stopped"]


@pytest.mark.parametrize(
    ("expected", "state", "raw", "told"),
    [
        (events.SUSPENDED, libvirt.VIR_DOMAIN_RUNNING, [PAUSED, SAVED], ["suspended"]),
        (events.SUSPENDED, libvirt.VIR_DOMAIN_PAUSED, [SAVED], ["suspended"]),
        (events.PAUSED, libvirt.VIR_DOMAIN_SHUTOFF, [STARTED, PAUSED], ["paused"]),
        (events.RESUMED, libvirt.VIR_DOMAIN_SHUTOFF, [RESTORED, RESUMED_BY_RESTORE], ["resumed"]),
        (events.RESUMED, libvirt.VIR_DOMAIN_SHUTOFF, [RESTORED, PAUSED_BY_RESTORE, RESUMED], ["resumed"]),
        (events.STOPPED, libvirt.VIR_DOMAIN_RUNNING, [ENDED_BY_GUEST, SHUT_DOWN], ["stopped"]),
    ],
)
def test_states_on_the_way_to_what_is_expected_are_not_told(
    ear: Ear, expected: int, state: int, raw: list[Raw], told: list[str]
) -> None:
    ear.relay.prime({UUID: state})
    with ear.relay.expecting(UUID, expected, lambda: False) as expectation:
        expectation.begin()
        ear.hear(*raw)
        assert expectation.seen.is_set()
    assert ear.told() == [(name, "host") for name in told]


@pytest.mark.parametrize("seen", [True, False], ids=["arrived under our eyes", "found held"])
def test_a_guest_that_was_held_when_it_arrived_is_started_when_it_is_let_go(ear: Ear, seen: bool) -> None:
    ear.relay.prime({} if seen else {UUID: libvirt.VIR_DOMAIN_PAUSED})
    if seen:
        ear.hear(INCOMING, PAUSED)
    with ear.relay.expecting(UUID, events.STARTED, lambda: False) as expectation:
        expectation.begin()
        ear.hear(RESUMED)
        assert expectation.seen.is_set()
    ear.hear(PAUSED)
    assert ear.told() == [("started", "host"), ("paused", "host")]


def test_a_save_that_fails_tells_nothing(ear: Ear) -> None:
    ear.relay.prime({UUID: libvirt.VIR_DOMAIN_RUNNING})
    with ear.relay.expecting(UUID, events.SUSPENDED, lambda: False):
        ear.hear(PAUSED, RESUMED)
    ear.hear(PAUSED)
    assert ear.told() == [("paused", "host")]


def test_the_block_is_left_when_the_event_went_out(ear: Ear) -> None:
    ear.relay.prime({UUID: libvirt.VIR_DOMAIN_RUNNING})
    with ear.relay.expecting(UUID, events.PAUSED, lambda: False) as expectation:
        expectation.begin()
        concurrency.spawn(lambda: (concurrency.sleep(0.05), ear.hear(PAUSED)))
    assert ear.told() == [("paused", "host")]


@pytest.mark.parametrize(("so", "told"), [(True, [("paused", "host")]), (False, [])])
def test_an_event_that_never_came_is_made_up_if_it_is_so(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, so: bool, told: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(events, "EVENT_PATIENCE_S", 0.02)
    ear.relay.prime({UUID: libvirt.VIR_DOMAIN_RUNNING})
    with ear.relay.expecting(UUID, events.PAUSED, lambda: so) as expectation:
        expectation.begin()
    assert ear.told() == told


def test_a_late_event_is_not_told_a_second_time(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENT_PATIENCE_S", 0.02)
    ear.relay.prime({UUID: libvirt.VIR_DOMAIN_RUNNING})
    with ear.relay.expecting(UUID, events.PAUSED, lambda: True) as expectation:
        expectation.begin()
    ear.hear(PAUSED, RESUMED)
    assert [name for name, _ in ear.told()] == ["paused", "resumed"]


def test_nothing_is_awaited_where_nothing_was_begun(ear: Ear) -> None:
    with ear.relay.expecting(UUID, events.PAUSED, lambda: pytest.fail("looked in vain")):
        pass
    assert ear.told() == []


def test_a_block_that_fails_awaits_nothing(ear: Ear) -> None:
    def fail() -> None:
        with ear.relay.expecting(UUID, events.PAUSED, lambda: True) as expectation:
            expectation.begin()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ear.told() == []
    assert not ear.relay._expected


def test_what_was_found_at_a_connect_is_not_told(ear: Ear) -> None:
    ear.relay.prime({UUID: libvirt.VIR_DOMAIN_PAUSED})
    ear.hear(PAUSED)
    ear.hear(RESUMED)
    assert ear.told() == [("resumed", "host")]


def test_domains_that_are_gone_are_forgotten(ear: Ear) -> None:
    ear.hear(*BOOT, ENDED_BY_GUEST, DESTROYED, UNDEFINED)
    assert not ear.relay._runs
    assert not ear.relay._shutdown_by

# SPDX-License-Identifier: Apache-2.0
"""Whoever judges migrations would notice two copies of a guest, and one that was started anew."""

from __future__ import annotations

from tests.rig.truth import Span, contradictions

_STEADY = [1, 2, 3]


def test_one_guest_that_went_over_and_came_back_contradicts_nothing() -> None:
    spans = [Span("one", 1.0, 2.0), Span("other", 2.5, 3.0), Span("one", 3.1, 4.0)]
    assert contradictions(spans, _STEADY, 1) == []


def test_running_at_both_hosts_is_noticed() -> None:
    assert len(contradictions([Span("one", 1.0, 3.0), Span("other", 2.5, 4.0)], _STEADY, 1)) == 1


def test_what_is_seen_of_one_host_in_two_spans_is_no_contradiction() -> None:
    assert contradictions([Span("one", 1.0, 3.0), Span("one", 3.0, 4.0)], _STEADY, 1) == []


def test_a_tick_that_was_said_twice_is_noticed() -> None:
    assert len(contradictions([], [1, 2, 3, 3, 4], 1)) == 1


def test_a_second_start_is_noticed() -> None:
    assert len(contradictions([], [1, 2, 3, 1, 2], 2)) == 1

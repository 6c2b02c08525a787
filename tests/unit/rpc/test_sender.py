# SPDX-License-Identifier: Apache-2.0
"""Which messages count as confirmed, whatever the order in which the broker answers."""

import time
from typing import cast
from unittest import mock

import pytest

from compute_agent.rpc.link import Link
from compute_agent.rpc.sender import Blocked, Refused, _Line

EARLIER = 3


def line(*answers: tuple[str, int, bool]) -> _Line:
    """A line with earlier traffic, whose broker gives ``answers``: ack or nack, number, and all before."""
    link = mock.create_autospec(Link, instance=True, heartbeat_interval_s=1.0, blocked=False)
    made = _Line(link, None)
    acked, nacked, _returned = link.confirm.call_args.args
    script = iter([("ack", EARLIER, True), *answers])

    def read(_timeout: float) -> None:
        kind, number, all_before = next(script)
        (acked if kind == "ack" else nacked)(number, all_before)

    link.read.side_effect = read
    publish(made, EARLIER)
    made.wait_confirmed(time.monotonic() + 5)
    made.begin()
    return made


def publish(made: _Line, number: int) -> None:
    for _ in range(number):
        made.publish(b"", "exchange", "key", time.monotonic() + 5)


@pytest.mark.parametrize(
    "answers",
    [
        [("ack", 4, False), ("ack", 5, False), ("ack", 6, False)],
        [("ack", 6, True)],
        [("ack", 6, False), ("ack", 4, False), ("ack", 5, False)],
        [("ack", 5, True), ("ack", 6, False)],
    ],
)
def test_all_are_confirmed(answers: list[tuple[str, int, bool]]) -> None:
    made = line(*answers)
    publish(made, 3)
    made.wait_confirmed(time.monotonic() + 5)
    assert made.first_confirmed(3) == 3


@pytest.mark.parametrize(
    ("answers", "first"),
    [
        ([("nack", 4, False)], 0),
        ([("ack", 4, False), ("nack", 5, False)], 1),
        ([("ack", 6, False), ("ack", 4, False), ("nack", 5, False)], 1),
        ([("nack", 6, True)], 0),
    ],
)
def test_a_refusal_ends_the_attempt_and_only_the_first_ones_count(
    answers: list[tuple[str, int, bool]], first: int
) -> None:
    made = line(*answers)
    publish(made, 3)
    with pytest.raises(Refused):
        made.wait_confirmed(time.monotonic() + 5)
    assert made.first_confirmed(3) == first


def test_when_time_runs_out_what_was_confirmed_counts() -> None:
    made = line(("ack", 4, False), ("ack", 6, False))
    publish(made, 3)
    with pytest.raises((TimeoutError, StopIteration)):
        made.wait_confirmed(time.monotonic() + 0.2)
    assert made.first_confirmed(3) == 1


def block(made: _Line, blocked: bool = True) -> None:
    """Let the next read hear that the broker takes no messages, or does again."""

    def read(_timeout: float) -> None:
        if made.link.blocked is blocked:
            raise TimeoutError
        made.link.blocked = blocked

    cast(mock.Mock, made.link.read).side_effect = read


def test_a_blocked_broker_ends_the_attempt_at_once_and_the_next_ones_before_they_begin() -> None:
    made = line()
    publish(made, 3)
    block(made)
    with pytest.raises(Blocked):
        made.wait_confirmed(time.monotonic() + 60)
    assert made.first_confirmed(3) == 0
    for _ in range(2):
        with pytest.raises(Blocked):
            made.begin()


def test_what_comes_of_an_earlier_attempt_is_not_taken_for_this_one() -> None:
    made = line()
    publish(made, 3)
    block(made)
    with pytest.raises(Blocked):
        made.wait_confirmed(time.monotonic() + 60)
    block(made, False)
    made.begin()
    publish(made, 1)
    acked, nacked, returned = cast(mock.Mock, made.link.confirm).call_args.args
    answers = iter(
        [
            lambda: nacked(5, False),
            lambda: returned(ValueError("no queue"), "exchange", "another key", None),
            lambda: acked(6, True),
            lambda: acked(7, False),
        ]
    )
    cast(mock.Mock, made.link.read).side_effect = lambda _timeout: next(answers)()
    made.wait_confirmed(time.monotonic() + 60)
    assert made.first_confirmed(1) == 1
    assert made.returned is None
    assert next(answers, None) is None

# SPDX-License-Identifier: Apache-2.0
"""Points at which a test makes the agent fail."""

import time
from collections.abc import Iterator

import pytest

from compute_agent import failpoints, steps
from compute_agent.model import errors


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def outcomes(number: int) -> list[str]:
    found = []
    for _ in range(number):
        try:
            failpoints.hit("here")
            found.append("passed")
        except errors.ComputeError as error:
            found.append(error.code)
    return found


def test_a_point_fails_from_the_kth_time_on_and_only_n_times() -> None:
    failpoints.arm("here=raise:DiskFull@2*2")
    assert outcomes(4) == ["passed", "DiskFull", "DiskFull", "passed"]


@pytest.mark.parametrize("text", ["here", "here=", "here=explode", "here=raise@x"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        failpoints.arm(text)


def test_a_point_hangs_until_the_deadline_of_the_running_work() -> None:
    failpoints.arm("here=hang")
    with steps.working(steps.Work(verb="any", deadline=time.monotonic() + 0.05)):
        assert outcomes(1) == ["Timeout"]


def test_a_point_hangs_until_the_running_work_is_cancelled() -> None:
    failpoints.arm("here=hang")
    work = steps.Work(verb="any")
    work.cancel()
    with steps.working(work):
        assert outcomes(1) == ["Cancelled"]

# SPDX-License-Identifier: Apache-2.0
"""The wall clock, and the only way to it: RFC 3339, UTC, always with microseconds.

Deadlines never come from here: they are measured with :func:`time.monotonic`, which a
clock that jumps can't disturb. The wall clock dates records and judges ``expires_at``;
order comes from counters (``seq``, a position in the journal), never from a date.
"""

import datetime
import time
from typing import Annotated

import msgspec

Timestamp = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
        description="RFC 3339, UTC, microseconds",
    ),
]

READING_S = 0.1
"""How long reading two clocks may take, in seconds, so that the two belong together."""


def unix() -> float:
    """Return the current time in seconds since 1970, as libraries and the published contracts want it."""
    return time.time()


def now() -> datetime.datetime:
    """Return the current UTC time."""
    return datetime.datetime.fromtimestamp(unix(), datetime.UTC)


def timestamp(moment: datetime.datetime | None = None) -> Timestamp:
    """Format ``moment`` (default: now) as the wire's time stamp.

    :param moment: an aware time of any zone
    """
    moment = (moment or now()).astimezone(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: Timestamp) -> datetime.datetime:
    """Read a time stamp back.

    :raises ValueError: if ``text`` is not RFC 3339
    """
    return datetime.datetime.fromisoformat(text)


def after(seconds: float) -> datetime.datetime:
    """Return the UTC time ``seconds`` from now; negative for the past."""
    return now() + datetime.timedelta(seconds=seconds)


def uptime() -> float:
    """Return the seconds since the host booted, those included in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _offset() -> float:
    """Return by how many seconds the wall clock is ahead of :func:`uptime`. Waking up does not change it."""
    while True:
        before = uptime()
        wall = unix()
        if uptime() - before < READING_S:
            return wall - before


class Comparison:
    """Finds out by how much the wall clock was set, whoever did it.

    :param since: an :attr:`offset` of an earlier comparison since the host booted
    """

    def __init__(self, since: float | None = None) -> None:
        self._last = self._first = _offset() if since is None else since

    def look(self) -> float:
        """Return by how many seconds it was set since the last look: forwards, or backwards if negative.

        A clock that is slewed, at most half a millisecond per second, shows as next to nothing.
        """
        offset = _offset()
        jump, self._last = offset - self._last, offset
        return jump

    @property
    def offset(self) -> float:
        """By how many seconds the wall clock is ahead of :func:`uptime`, as of the last look."""
        return self._last

    @property
    def moved(self) -> float:
        """By how many seconds it has been set in all, as of the last look."""
        return self._last - self._first

# SPDX-License-Identifier: Apache-2.0
"""Wall-clock time as the interface shows it: RFC 3339, UTC, always with microseconds.

Deadlines never come from here: they are measured with :func:`time.monotonic`, which a
clock that jumps can't disturb. The wall clock dates records and judges ``expires_at``.
"""

import datetime
from typing import Annotated

import msgspec

Timestamp = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
        description="RFC 3339, UTC, microseconds",
    ),
]


def now() -> datetime.datetime:
    """Return the current UTC time."""
    return datetime.datetime.now(datetime.UTC)


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

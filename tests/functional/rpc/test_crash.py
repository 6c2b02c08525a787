# SPDX-License-Identifier: Apache-2.0
"""Whatever the moment of a crash, a message is journalled or still with the broker."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from tests.functional.rpc.conftest import HOST, QUEUE
from tests.rig.broker import Broker
from tests.rig.process import wait_until

CASTS = 20
BATCH = 5
DEADLINE_S = 30.0


def journaling(broker: Broker, journal: pathlib.Path, point: str) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-W", "ignore", "-m", "tests.functional.rpc.journaling"]
    return subprocess.Popen(
        [*program, broker.transport_url, HOST, str(journal), str(BATCH), point],
        stdin=subprocess.PIPE,
        close_fds=True,
    )


def lines(journal: pathlib.Path) -> list[str]:
    return journal.read_text().split() if journal.exists() else []


@pytest.mark.parametrize(
    ("point", "journalled", "twice"),
    [("before", 0, 0), ("after", BATCH, BATCH), ("acknowledged", BATCH, 0)],
)
def test_a_killed_consumer_loses_nothing(
    broker: Broker,
    queue: str,
    publish: Callable[[bytes], None],
    tmp_path: pathlib.Path,
    point: str,
    journalled: int,
    twice: int,
) -> None:
    casts = [f"cast-{number}" for number in range(CASTS)]
    for cast in casts:
        publish(cast.encode())
    journal = tmp_path / "journal"

    with journaling(broker, journal, point) as killed:
        assert killed.wait(DEADLINE_S) == -signal.SIGKILL
    assert lines(journal) == casts[:journalled]

    with journaling(broker, journal, "never") as after:
        wait_until(lambda: set(lines(journal)) == set(casts), DEADLINE_S, "every cast")
        assert after.stdin is not None
        after.stdin.close()
        assert after.wait(DEADLINE_S) == 0
    assert Counter(lines(journal)) == Counter(casts + casts[:twice])
    assert broker.queue_length(QUEUE) == 0

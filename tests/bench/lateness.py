# SPDX-License-Identifier: Apache-2.0
"""How late a process of its own wakes up that does nothing but sleep: what the machine alone adds to a wait.

Without it, the longest time that the agent's hub was kept from running could be its own fault or that of a
machine whose cores all start guests.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Self

_PROGRAM = """
import sys, threading, time
worst = 0.0
def listen():
    global worst
    for line in sys.stdin:
        answer, worst = worst, 0.0
        print(answer, flush=True)
threading.Thread(target=listen, daemon=True).start()
while True:
    before = time.monotonic()
    time.sleep(0.05)
    worst = max(worst, (time.monotonic() - before - 0.05) * 1000)
"""


class Lateness:
    """Measures from its start on, in intervals of 50 ms as the agent does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.take_worst()

    def take_worst(self) -> float:
        """The most it was late since the last call, in ms."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()

# SPDX-License-Identifier: Apache-2.0
"""Notices a wall clock that is off, and says so; it is never set from here, and nothing stops for it.

Order and deadlines don't depend on it. What does, is told by the problem: dates, and ``expires_at``.
While the clock is in doubt nothing is dropped for its age (:attr:`Timekeeper.trusted`), since that can't be
taken back.

It is in doubt after a jump, until it is back or has gone on steadily for :data:`STEADY_S`; and at the start
when it is behind the newest event on record, until it has caught up. A jump while the agent was away is found
by what was noted of the clock, if the host was not booted since. What senders think of the time is not known:
no message says when it was sent.
"""

import datetime
import json
import logging
import time
import uuid
from typing import Any

from compute_agent import concurrency
from compute_agent.manager.manager import Manager
from compute_agent.manager.reconcile import BOOT_ID
from compute_agent.model import clock
from compute_agent.model.event import Cause, EventType
from compute_agent.store import host, outbox
from compute_agent.store.database import Transaction

LOG = logging.getLogger(__name__)

INTERVAL_S = 1.0
JUMP_S = 2.0
"""From how many seconds on a jump is told."""
SLEW = 500e-6
"""How far a clock that is set gently may drift, in seconds per second (the kernel allows no more)."""
DRIFT_S = 0.5
"""How far it may drift until it is noted anew, in seconds."""
STEADY_S = 3600.0
"""After how many seconds without a jump the clock is believed again."""
CLOCK = "clock"
"""The name of this problem among those of the host, and of the note in the state file."""
AFFECTED = "dates of records and events and expires_at follow it; order and deadlines do not"


class Timekeeper:
    """Watches the wall clock."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._comparison = clock.Comparison()
        self._noted = self._comparison.offset
        self._jumped_at: float | None = None
        self._behind: datetime.datetime | None = None
        self._boot_id = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the wall clock."""
        return CLOCK not in self._manager.health

    def start(self) -> None:
        """Compare the clock with the record, then watch it. To be called before anything new is told."""
        if not self._compare_with_note():
            self._compare_with_record()
        self._note()
        concurrency.spawn(self._run)

    def look(self) -> None:
        """Tell of a jump since the last look; let a problem go that is over."""
        jump_s = self._comparison.look()
        if abs(jump_s) >= JUMP_S:
            self._jump(jump_s)
        elif not self.trusted and self._is_over():
            LOG.info("the clock is believed again")
            self._jumped_at = self._behind = None
            self._comparison = clock.Comparison()
            self._manager.health.pop(CLOCK, None)
        if abs(self._comparison.offset - self._noted) >= DRIFT_S:
            self._note()

    # --- at the start -----------------------------------------------------------------------------------

    def _compare_with_note(self) -> bool:
        """Tell if the clock jumped while the agent was away; return whether it did."""
        noted = json.loads(self._manager.store.read(lambda tx: host.get(tx, CLOCK)) or "{}")
        if not self._boot_id or noted.get("boot_id") != self._boot_id:
            return False
        comparison = clock.Comparison(noted["offset_s"])
        jump_s = comparison.look()
        if abs(jump_s) < JUMP_S + SLEW * (clock.uptime() - noted["uptime_s"]):
            return False
        self._comparison = comparison
        self._jump(jump_s)
        return True

    def _compare_with_record(self) -> None:
        """Tell if the clock is behind what was on record before."""
        newest = self._manager.store.read(newest_moment)
        behind_s = (newest - clock.now()).total_seconds()
        if behind_s >= JUMP_S:
            self._behind = newest
            self._tell(f"the clock is {behind_s:.0f} s behind the newest event on record: {AFFECTED}")

    def _note(self) -> None:
        """Keep how the clock stands, for the next start."""
        self._noted = self._comparison.offset
        text = json.dumps({"boot_id": self._boot_id, "uptime_s": clock.uptime(), "offset_s": self._noted})
        self._manager.store.submit(lambda tx: host.put(tx, CLOCK, text))

    # --- afterwards -------------------------------------------------------------------------------------

    def _jump(self, jump_s: float) -> None:
        back = self._jumped_at is not None and abs(self._comparison.moved) < JUMP_S
        self._jumped_at = None if back else time.monotonic()
        way = "forwards" if jump_s > 0 else "backwards"
        again = ", to where it was before" if back else ""
        self._tell(f"the clock jumped {abs(jump_s):.0f} s {way}{again}: {AFFECTED}", jump_s=round(jump_s, 3))

    def _is_over(self) -> bool:
        behind = self._behind is not None and clock.now() < self._behind
        steady = self._jumped_at is None or time.monotonic() - self._jumped_at >= STEADY_S
        return steady and not behind

    def _tell(self, problem: str, **more: Any) -> None:
        LOG.warning("%s", problem)
        self._manager.health[CLOCK] = problem
        data = {"problem": problem, **more}
        self._manager.store.submit(
            lambda tx: outbox.append(tx, EventType.HOST_PROBLEM, cause=Cause.HOST, data=data), owed=True
        )

    def _run(self) -> None:
        while True:
            concurrency.sleep(INTERVAL_S)
            try:
                self.look()
            except Exception:
                LOG.exception("the clock could not be looked at")


def newest_moment(tx: Transaction) -> datetime.datetime:
    """Return the latest time that is known to have passed: the newest event's, else the epoch's beginning."""
    for event in outbox.unsent(tx, outbox.last_seq(tx) - 1, 1):
        return clock.parse(event.occurred_at)
    began_s = (uuid.UUID(tx.identity.epoch).int >> 80) / 1000
    return datetime.datetime.fromtimestamp(began_s, datetime.UTC)

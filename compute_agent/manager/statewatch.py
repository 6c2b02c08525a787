# SPDX-License-Identifier: Apache-2.0
"""Watching over the state directory: messages wait with the broker while it can't take what they ask.

They wait for two reasons. The record was lost and the hypervisor has not been asked yet: what is not on
record may be there all the same. Or the disk has too little room, or takes nothing. Either is looked at again
and again, and work goes on by itself. Meanwhile the state file's progress is noted beside it.
"""

import logging
from collections.abc import Callable

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.manager.manager import Manager
from compute_agent.model.event import EventType
from compute_agent.store import directory, host, outbox

LOG = logging.getLogger(__name__)

INTERVAL_S = 1.0
RECORD = "record"
"""The reason while the record is not filled yet."""
STATE_DISK = "state disk"
"""The reason while the disk is almost full, or takes nothing."""


class StateWatch:
    """Holds messages back, and lets them go, as record and disk are.

    :param manager: whose record it is, and whose health says why
    :param place: of the state file
    :param hold: takes no messages any more; called with reason and problem
    :param release: takes messages again, as far as this reason goes
    """

    def __init__(
        self,
        manager: Manager,
        place: directory.StateDirectory,
        *,
        hold: Callable[[str, str], object],
        release: Callable[[str], object],
    ) -> None:
        self._manager = manager
        self._store = manager.store
        self._place = place
        self._hold, self._release = hold, release
        self._lost = True
        """Whether the record may still have to be filled; once it is, it stays so."""

    def run(self, ended: concurrency.Event) -> None:
        """Look every second until the agent has ended; what fails is looked at again."""
        while not ended.wait(INTERVAL_S):
            try:
                self.look()
                self._place.note_progress(self._store)
            except Exception:
                LOG.exception("the state directory could not be looked after")

    def look(self) -> None:
        """Hold messages back, or let them go."""
        if self._lost:
            self._look_at_record()
        self._look_at_disk()

    def _look_at_record(self) -> None:
        lost = self._store.read(lambda tx: host.get(tx, directory.RESET))
        self._lost = lost is not None
        if lost is None:
            self._release(RECORD)
        else:
            self._hold(RECORD, f"the state file is new ({lost}), and the hypervisor has not been asked")

    def _look_at_disk(self) -> None:
        problem = self._disk_problem()
        if problem is None:
            self._release(STATE_DISK)
            return
        if STATE_DISK not in self._manager.health:
            self._store.submit(
                lambda tx: outbox.append(tx, EventType.HOST_PROBLEM, data={"problem": problem}), owed=True
            )
        self._hold(STATE_DISK, problem)

    def _disk_problem(self) -> str | None:
        """Return what is wrong with the state disk; None if nothing is."""
        needed = CONF.health.state_reserve_mb
        try:
            free = self._place.free_mib()
        except OSError as error:
            return f"{CONF.state_path}: {error.strerror}"
        room = f"{free} MiB free below {CONF.state_path}"
        if self._store.problem is not None:
            return f"{self._store.problem} ({room})"
        if not self._store.roomy.is_set():
            return f"{room}, and the reserve is in use"
        return f"{room}, of {needed} needed" if free < needed else None

# SPDX-License-Identifier: Apache-2.0
"""The transfer itself: libvirt moves a guest, this module starts that, watches it and ends it.

The two libvirtd do the work among themselves (peer to peer), so a transfer outlives the agent that began it;
the next agent finds it under way and watches it again. How it ended is read off the domain, not off the call:
the call's answer may be lost.

By itself a guest arrives held, and runs when the destination has been told so; see model/handshake.py.
"""

import time
from collections.abc import Mapping
from typing import Any

import libvirt

from compute_agent import concurrency
from compute_agent.model import errors
from compute_agent.virt.info import MigrationStatus
from compute_agent.virt.libvirt import faults
from compute_agent.virt.libvirt.migration.plan import Definitions, Plan

_FIRST_DOWNTIME_SHARE = 10
"""The first limit of the downtime is this part of the last one."""
_STALLED_S = 30.0
_UP = frozenset({libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED})


def start(domain: libvirt.virDomain, wanted: Plan) -> None:
    """Move the guest; returns when that has ended. In a native thread."""
    domain.migrateToURI3(wanted.uri, dict(wanted.parameters), wanted.flags)


def definitions(domain: libvirt.virDomain) -> Definitions:
    """Read what a migration begins from. In a native thread."""
    flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
    inactive = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    return Definitions(str(domain.XMLDesc(flags)), str(domain.XMLDesc(inactive)), str(domain.name()))


def statistics(domain: libvirt.virDomain, ended: bool = False) -> dict[str, Any]:
    """Return libvirt's counters of the job; none without one. In a native thread."""
    flags = (
        libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED if ended else 0
    )
    try:
        return dict(domain.jobStats(flags))
    except libvirt.libvirtError as error:
        if faults.is_wrong_state(error):
            return {}
        raise


def abort(domain: libvirt.virDomain) -> None:
    """End the job.

    :raises InvalidState: if there is none that can be ended
    """
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        if not faults.is_wrong_state(error):
            raise
        raise errors.InvalidState(
            "there is no migration that could be stopped", evidence=str(error)
        ) from None


def set_downtime(domain: libvirt.virDomain, milliseconds: int) -> None:
    """Let the guest be held for so long at the end; without a job that is nothing."""
    try:
        domain.migrateSetMaxDowntime(milliseconds, 0)
    except libvirt.libvirtError as error:
        if not faults.is_wrong_state(error):
            raise


def force(domain: libvirt.virDomain) -> None:
    """Go to post-copy where the migration was begun as one; else hold the guest. Repeating it is harmless."""
    try:
        domain.migrateStartPostCopy(0)
    except libvirt.libvirtError as error:
        if not faults.is_wrong_state(error):
            raise
        if domain.state()[0] in _UP:
            domain.suspend()


def downtimes(
    last_ms: int, steps: int, delay_s: float, first_ms: int | None = None
) -> list[tuple[float, int]]:
    """Return when, in seconds from the start, which downtime becomes the limit.

    It begins small and grows faster and faster, so that a guest that is idle is held shortly, and one that is
    busy gets there at all.

    :param first_ms: with what it begins, in milliseconds; a part of the last one if it is not said
    """
    first = first_ms or max(1, last_ms // _FIRST_DOWNTIME_SHARE)
    if steps < 2 or last_ms <= first:
        return [(0.0, last_ms)]
    factor = (last_ms / first) ** (1 / (steps - 1))
    return [(number * delay_s, round(first * factor**number)) for number in range(steps)]


class Transfer:
    """One transfer at its source, as far as this agent follows it.

    :ivar called: whether it was begun here; then ``ended`` is set when libvirt's answer came
    :ivar given_up: whether nothing more is expected of it
    :ivar switching: whether the guest was stopped here, so that each look counts as time that it is away
    :ivar handed_over: whether it is certain already that it goes on elsewhere; that stays so
    :ivar news: set when there is something to look at
    """

    def __init__(self, steps: list[tuple[float, int]], post_copy: bool = False) -> None:
        self.status = MigrationStatus(status="preparing")
        self.ended = concurrency.Event()
        self.news = concurrency.Event()
        self.called = False
        self.post_copy = post_copy
        self.given_up = False
        self.name = ""
        self.switching = False
        self.handed_over = False
        self.error: errors.ComputeError | None = None
        self._stopped = False
        self._began = time.monotonic()
        self._steps = list(steps)
        self._least = 0
        self._least_at = self._began

    @property
    def ending(self) -> str:
        """How it ended, if not well, in the words of the status."""
        return "cancelled" if self._stopped or isinstance(self.error, errors.Cancelled) else "failed"

    def switch(self) -> None:
        """Take down that the guest stands still: the end is near."""
        self.switching = True
        self.news.set()

    def end(self) -> None:
        """Take down that libvirt has answered."""
        self.ended.set()
        self.news.set()

    def fail(self, error: libvirt.libvirtError) -> None:
        """Take down what libvirt said to the transfer."""
        self._stopped = faults.code(error) == libvirt.VIR_ERR_OPERATION_ABORTED
        found = faults.to_compute_error(error)
        message = "the migration was stopped" if self._stopped else found.message
        self.error = errors.MigrationFailed(
            message, retryable=not self._stopped, evidence=found.evidence or str(error)
        )

    def due_downtime(self) -> int | None:
        """Return the limit of the downtime that is due now, if one is."""
        due = None
        while self._steps and time.monotonic() - self._began >= self._steps[0][0]:
            due = self._steps.pop(0)[1]
        return due

    def note(self, found: Mapping[str, Any], name: str = "running") -> None:
        """Take down what libvirt's counters say."""
        remaining = int(found.get("memory_remaining", 0)) + int(found.get("disk_remaining", 0))
        if found and (self._least == 0 or remaining < self._least):
            self._least, self._least_at = remaining, time.monotonic()
        rate = int(found.get("memory_bps", 0)) + int(found.get("disk_bps", 0))
        self.status = MigrationStatus(
            status=name,
            transferred_ram=int(found.get("memory_processed", self.status.transferred_ram)),
            total_ram=int(found.get("memory_total", self.status.total_ram)),
            remaining_ram=int(found.get("memory_remaining", 0)),
            transferred_disk=int(found.get("disk_processed", self.status.transferred_disk)),
            total_disk=int(found.get("disk_total", self.status.total_disk)),
            downtime_ms=int(found["downtime"]) if "downtime" in found else None,
            elapsed_ms=int((time.monotonic() - self._began) * 1000),
            rate_bps=rate,
            expected_ms=remaining * 1000 // rate if rate and name == "running" else None,
            stalled=name == "running" and time.monotonic() - self._least_at > _STALLED_S,
        )

# SPDX-License-Identifier: Apache-2.0
"""Waiting for QEMU's block jobs (copy, commit, pull): by libvirt's events, with a look now and then.

An event only says when to look: what counts is what a look at the domain finds, so neither an event that
got lost nor one of another job can mislead. Between events a look is taken at growing intervals, for the
progress that no event tells.
"""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import libvirt
from lxml import etree

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.virt.libvirt import faults
from compute_agent.virt.libvirt.config import element
from compute_agent.virt.libvirt.host import Host
from compute_agent.virt.libvirt.signals import JobSignal, Listener, Signals

FIRST_LOOK_S = 0.5
LONGEST_LOOK_S = 5.0
"""Looks between events: soon at first, for small disks, then seldom."""
_ENDS = frozenset(
    {
        libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED,
        libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED,
        libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED,
    }
)


class JobState(enum.Enum):
    """Where a job is."""

    NONE = "none"
    RUNNING = "running"
    READY = "ready"
    """a copy, or a commit of the newest layer, that follows the guest until it is ended or pivoted"""


@dataclasses.dataclass(frozen=True)
class Job:
    """A disk's block job as it was found; bytes."""

    state: JobState
    done: int = 0
    total: int = 0


def look(domain: libvirt.virDomain, target: str) -> Job:
    """Return the job of the disk ``target``. In a native thread.

    :raises InvalidState: if the guest does not run
    """
    try:
        info = domain.blockJobInfo(target, libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
    except libvirt.libvirtError as error:
        if faults.is_lost(error) or domain.isActive():
            raise
        raise errors.InvalidState("the guest does not run", evidence=str(error)) from None
    if not info:
        return Job(JobState.NONE)
    ready = _is_ready(domain, target)
    return Job(JobState.READY if ready else JobState.RUNNING, int(info["cur"]), int(info["end"]))


def _is_ready(domain: libvirt.virDomain, target: str) -> bool:
    mirror = disk_element(domain, target, "mirror")
    return mirror is not None and mirror.get("ready") == "yes"


def disk_element(domain: libvirt.virDomain, target: str, path: str) -> etree._Element | None:
    """Return the element at ``path`` of the running disk ``target``. In a native thread."""
    for disk in element.parse(domain.XMLDesc(0)).iterfind("devices/disk"):
        if disk.xpath("string(target/@dev)") == target:
            return disk.find(path)
    return None


class BlockJobs:
    """Waits for the block jobs of one hypervisor's guests."""

    def __init__(self, host: Host, signals: Signals) -> None:
        self._host = host
        self._signals = signals

    @contextmanager
    def watching(self, uuid: str, target: str) -> Iterator[Watch]:
        """Watch a disk's jobs; enter before the job is started, so that no event is missed."""
        with self._signals.listening(uuid, target) as listener:
            yield Watch(self._host, uuid, target, listener)

    def wait(
        self,
        uuid: str,
        target: str,
        wanted: frozenset[JobState],
        report: Callable[[Job], object] | None = None,
    ) -> Job:
        """As :meth:`Watch.wait`, for a job that may have been under way before."""
        with self.watching(uuid, target) as watch:
            return watch.wait(wanted, report)

    def abort(self, uuid: str, target: str) -> None:
        """End a disk's job, if there is one: a copy is given up, a commit undone. Safe to repeat."""
        self._host.act_guest(uuid, _abort, target, 0)

    def pivot(self, uuid: str, target: str) -> None:
        """Let the guest go over to where a job that is ready has led."""
        self._host.act_guest(uuid, _abort, target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


class Watch:
    """One disk's jobs, watched."""

    def __init__(self, host: Host, uuid: str, target: str, listener: Listener) -> None:
        self._host = host
        self._uuid = uuid
        self._target = target
        self._listener = listener
        self._signals: list[JobSignal] = []

    def wait(self, wanted: frozenset[JobState], report: Callable[[Job], object] | None = None) -> Job:
        """Wait until the job is in one of the ``wanted`` states, or is no more; return it as it is then.

        The running operation is told how far it is; ``report`` is told too. The job is not ended when the
        wait ends otherwise: that is for the step that started it.

        :raises Cancelled, Timeout: when the operation is cancelled, or its deadline passes
        :raises InvalidState: if the guest went off
        """
        work, pause = steps.current(), FIRST_LOOK_S
        while True:
            self._signals += [item for item in self._listener.take() if isinstance(item, JobSignal)]
            job = self._host.act_guest(self._uuid, look, self._target)
            if job.total:
                work.report(job.done, job.total)
            if report is not None:
                report(job)
            if job.state in wanted or job.state is JobState.NONE:
                return job
            work.check()
            work.wait(self._listener.rung, pause)
            pause = min(pause * 1.5, LONGEST_LOOK_S)

    def told_end(self, within_s: float) -> int | None:
        """Return the status (libvirt's number) with which a job has ended, once it is told; else None."""
        until = time.monotonic() + within_s
        while True:
            self._signals += [item for item in self._listener.take() if isinstance(item, JobSignal)]
            ends = [signal.status for signal in self._signals if signal.status in _ENDS]
            if ends or not self._listener.rung.wait(until - time.monotonic()):
                return ends[-1] if ends else None

    @property
    def failed(self) -> bool:
        """Whether libvirt has told that a job of the disk failed."""
        return any(signal.status == libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED for signal in self._signals)


def _abort(domain: libvirt.virDomain, target: str, flags: int) -> None:
    """End a job. In a native thread. What has ended meanwhile has ended."""
    if not domain.isActive():
        return
    if not domain.blockJobInfo(target, 0):
        return
    try:
        domain.blockJobAbort(target, flags)
    except libvirt.libvirtError as error:
        if not faults.is_wrong_state(error):
            raise

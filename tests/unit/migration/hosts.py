# SPDX-License-Identifier: Apache-2.0
"""Two hypervisors and the guest between them: what libvirt may do, at its worst, without asking an agent.

The source's copy is ``runs``, ``held``, ``spent`` (a post-copy has begun), ``moved`` (off, and known to be
transferred), ``off`` or ``gone``; the destination's is ``absent``, ``incoming``, ``held``, ``runs``,
``broken`` (runs, and lacks memory that does not come) or ``off`` (arrived, and ended since). The job is
``none``, ``transfer``, ``switch`` (the source is held), ``finish`` (complete at the destination, and the
source has not heard it), ``post``, ``loose`` (as post, but the source takes it for broken off) or ``over``. A
guest that is moved cold is ``set_aside`` in ``transfer``, and what is ``held`` at the destination are its
disks. What is to be gone back to with a revert is ``aside`` there.
"""

from collections.abc import Iterator
from typing import NamedTuple

from compute_agent.model.handshake import Do, Fact, Kind

OFF = (Kind.COLD, Kind.REVERT)
ASIDE = ("off", "set_aside", "moved")
"""The source's copy while it is moved cold, as far as that has come."""
RUNNING_JOBS = ("transfer", "switch", "finish", "post")


class Broken(AssertionError):
    """A guarantee does not hold."""


class Hosts(NamedTuple):
    """Both hosts.

    ``stale``: the source ran after the destination's copy was made; ``ran``: the guest has run at the
    destination; ``died``: a fault of a hypervisor has ended its run.
    """

    source: str = "runs"
    destination: str = "absent"
    job: str = "none"
    stale: bool = False
    ran: bool = False
    died: bool = False

    @property
    def busy(self) -> bool:
        return self.job in RUNNING_JOBS

    @property
    def lacks(self) -> bool:
        """Whether not all of the guest's memory is where it runs."""
        return self.destination == "broken" or self.job in ("post", "loose")

    def fact(self, side: int) -> Fact:
        """What an agent sees that looks."""
        copy = self[side]
        if copy == "incoming" or (side == 0 and self.busy):
            return Fact.BUSY
        if side == 1 and self.lacks:
            return Fact.PARTIAL
        return Fact({"gone": "off", "aside": "off"}.get(copy, copy))

    def runs_here(self, **more: object) -> "Hosts":
        return self._replace(source="runs", stale=self.destination != "absent", **more)  # type: ignore[arg-type]


class Hypervisors:
    """How the hosts go on, for one kind of migration. ``held``: what arrives is held (VIR_MIGRATE_PAUSED)."""

    def __init__(self, kind: Kind, held: bool = True) -> None:
        self.kind = kind
        self.held = held

    # --- what agents ask for ----------------------------------------------------------------------

    def fails(self, hosts: Hosts, side: int, action: Do) -> bool:
        """Whether it can't succeed as it is: nobody says that a guest goes on there before all of it is."""
        return side == 1 and action is Do.RESUME and hosts.lacks

    def act(self, hosts: Hosts, side: int, action: Do, parted: bool) -> Hosts:
        """Do what the agent of a side asks for; what can't be done changes nothing."""
        if action is Do.START and not hosts.busy:
            return self.start_cold(hosts) if self.kind in OFF else self.start(hosts, parted)
        if action is Do.ABORT_JOB and hosts.job in ("transfer", "switch"):
            return self.stopped(hosts)
        if action is Do.SWITCH and hosts.job == "transfer" and not parted:
            return hosts._replace(source="spent", destination="runs", job="post", ran=True)
        if action is Do.RESUME:
            return self.resume_source(hosts) if side == 0 else self.resume_destination(hosts)
        if action is Do.DISCARD:
            return self.discard(hosts)
        if action is Do.MEND and hosts[:2] == ("spent", "broken") and not parted:
            return hosts._replace(destination="runs", job="post")
        if action is Do.END and side == 1:
            return self.end_broken(hosts)
        if action is Do.END or (action is Do.CLEAN and side == 0):
            return hosts if self.kind is Kind.COLD else self.end_source(hosts)
        if action is Do.CLEAN:
            return self.clean_destination(hosts)
        return hosts

    def start(self, hosts: Hosts, parted: bool) -> Hosts:
        if hosts.job != "none" or hosts.source != "runs":
            return hosts
        if parted:
            return hosts._replace(job="over")
        return hosts._replace(destination="incoming", job="transfer")

    def start_cold(self, hosts: Hosts) -> Hosts:
        """Begin, or go on where an earlier attempt was interrupted."""
        if hosts.source == "gone":
            raise Broken(f"what is not there is sent: {hosts}")
        return hosts if hosts.source == "moved" else hosts._replace(job="transfer")

    def stopped(self, hosts: Hosts, destination: str = "absent") -> Hosts:
        """The transfer ends early; the source's copy is as it was before, but for a cold one."""
        if self.kind in OFF:  # it is as far as it came, here and there
            return hosts._replace(job="over")
        return hosts._replace(source="runs", destination=destination, job="over")

    def resume_source(self, hosts: Hosts) -> Hosts:
        if hosts.source == "held" or (self.kind in OFF and hosts.source in ASIDE):
            return hosts.runs_here()
        return hosts

    def resume_destination(self, hosts: Hosts) -> Hosts:
        if self.kind is Kind.REVERT and hosts.destination == "aside":
            return hosts._replace(destination="runs", ran=True)
        if self.kind is Kind.COLD and hosts.destination in ("absent", "incoming"):
            raise Broken(f"a guest is made from what is not all there: {hosts}")
        if hosts.destination != "held":
            return hosts
        if hosts.stale:
            raise Broken(f"an old copy is let run: {hosts}")
        return hosts._replace(destination="runs", ran=True)

    def end_source(self, hosts: Hosts) -> Hosts:
        if hosts.busy or hosts.lacks or hosts.source in ("runs", "held"):
            raise Broken(f"a guest that is needed is ended: {hosts}")
        return hosts._replace(source="gone")

    def end_broken(self, hosts: Hosts) -> Hosts:
        if hosts.destination != "broken":
            return hosts
        if hosts.source == "spent":
            raise Broken(f"a guest that could be mended is ended: {hosts}")
        return hosts._replace(destination="off", died=True)

    def discard(self, hosts: Hosts) -> Hosts:
        if hosts.source != "gone" and (hosts.source != "moved" or hosts.busy or not hosts.ran):
            raise Broken(f"what may be gone back to is removed: {hosts}")
        return hosts._replace(source="gone")

    def clean_destination(self, hosts: Hosts) -> Hosts:
        if hosts.ran:
            raise Broken(f"a guest that has run is thrown away: {hosts}")
        if self.kind is Kind.REVERT:  # what was aside stays
            return hosts
        if hosts.destination == "incoming" and hosts.busy:
            return self.stopped(hosts)
        return hosts._replace(destination="absent")

    # --- what happens by itself -------------------------------------------------------------------

    def progress(self, hosts: Hosts) -> Hosts | None:
        """What comes next when nothing fails; None if nothing does."""
        if hosts.job == "transfer" and self.kind is Kind.PRECOPY:
            return hosts._replace(source="held", job="switch")
        if hosts.job == "transfer" and self.kind in OFF:
            return self.progress_cold(hosts)
        if hosts.job == "switch" and self.held:
            return hosts._replace(destination="held", job="finish")
        if hosts.job == "switch":
            return hosts._replace(destination="runs", job="finish", ran=True)
        if hosts.job in ("finish", "post", "loose"):
            return hosts._replace(source="moved", job="over")
        if hosts.destination == "incoming" and not hosts.busy and self.kind not in OFF:
            return hosts._replace(destination="absent")
        return None

    def progress_cold(self, hosts: Hosts) -> Hosts:
        """Off, set aside, sent; then that is noted."""
        if hosts.source in ("runs", "off"):
            return hosts._replace(source="off" if hosts.source == "runs" else "set_aside")
        if self.kind is Kind.REVERT:
            return hosts._replace(job="finish")
        if hosts.destination == "absent":
            return hosts._replace(destination="incoming")
        return hosts._replace(destination="held", job="finish")

    def failures(self, hosts: Hosts) -> Iterator[Hosts]:
        """How a job may fail: the stream breaks, a libvirtd dies, an answer is lost."""
        if self.kind in OFF:
            if hosts.busy:
                yield self.stopped(hosts)
            return
        for left in ("absent", "incoming"):
            if hosts.job in ("transfer", "switch"):
                yield self.stopped(hosts, left)
        if hosts.job == "switch":  # libvirt did not let it go on
            yield hosts._replace(source="held", destination="absent", job="over")
        if hosts.job == "finish":  # complete at both ends, and the source has not heard it
            yield hosts.runs_here(job="over")
            yield hosts._replace(source="held", job="over")
        if hosts.job in ("post", "loose"):
            yield hosts._replace(destination="broken", job="over")
        if hosts.job == "post":  # the libvirtd have lost each other, the QEMUs have not
            yield hosts._replace(job="loose")

    def deaths(self, hosts: Hosts) -> Iterator[Hosts]:
        """How a copy may die: its QEMU is killed, or the guest shuts itself down."""
        if hosts.job == "none" or self.kind in OFF:
            return
        if hosts.source in ("runs", "held"):
            yield self.source_dies(hosts)
        if hosts.source == "spent":
            yield self.spent_dies(hosts)
        if hosts.destination == "held":
            source = "held" if hosts.job == "finish" else hosts.source
            died = hosts.died or source not in ("runs", "held")
            yield hosts._replace(source=source, destination="off", job="over", died=died)
        if hosts.destination in ("runs", "broken"):
            yield hosts._replace(destination="off", job="over", died=True)

    def spent_dies(self, hosts: Hosts) -> Hosts:
        left = "broken" if hosts.lacks else hosts.destination
        return hosts._replace(source="off", destination=left, job="over", died=True)

    def source_dies(self, hosts: Hosts) -> Hosts:
        gone = {"incoming": "absent"}.get(hosts.destination, hosts.destination)
        return hosts._replace(source="off", destination=gone, job="over", died=True)

    def power_loss(self, hosts: Hosts, side: int) -> Hosts | None:
        """A host loses its power, and forgets what it knew of ended guests. Disks stay."""
        if self.kind in OFF:
            return self.stopped(hosts) if hosts.busy else None
        if side == 0 and hosts.source == "spent":
            return self.spent_dies(hosts)
        if side == 0 and hosts.source != "gone":
            return self.source_dies(hosts)
        if side == 1 and hosts.destination in ("held", "runs", "broken", "incoming"):
            return self.destination_dies(hosts)
        return None

    def destination_dies(self, hosts: Hosts) -> Hosts:
        if hosts.destination == "incoming":
            return self.stopped(hosts) if hosts.busy else hosts._replace(destination="absent")
        source = "held" if hosts.job == "finish" else hosts.source
        died = hosts.died or source not in ("runs", "held")
        return hosts._replace(source=source, destination="off", job="over", died=died)

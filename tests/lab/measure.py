# SPDX-License-Identifier: Apache-2.0
"""Measures live migration by the agents beside libvirt's own call for the same guest, in turns.

`python -m tests.lab.measure [--rounds N] [--own-storage]`, as root. A round is three times there and back by
cast, then three times by `migrateToURI3` while the agents are stopped; of both the first time does not count.
The guest writes to its disk all the while and answers a ping over the bridge. Printed are medians, with the
worst in brackets: the whole time, and how long the guest was away, by ping and by its own ticks; then the
agents' medians as parts of libvirt's. Exit status 1: the guest had trouble, or lost what it had written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from tests.rig.agent import Agent
from tests.rig.hypervisor import bindings
from tests.rig.lab import Lab
from tests.rig.labguest import LabGuest
from tests.rig.linuxguest import Program
from tests.rig.measure import Watch
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

_TCP = {"libvirt": {"live_migration_scheme": "tcp", "live_migration_trust_shared_storage": True}}
_DEADLINE_S = 300.0
_TRIPS = 3
#: The guest's memory, and how much of it is in use.
MEMORY_MB, IN_USE_MB = 512, 320
AGENTS, RAW = "agents", "libvirt alone"


@dataclasses.dataclass(frozen=True)
class Run:
    """One migration; seconds. load: of the machine, when it was over."""

    how: str
    total: float
    ping: float
    ticks: float
    load: float


def measured(how: str, guest: LabGuest, move: Callable[[], object]) -> Run:
    """Watch one migration."""
    with Watch(guest) as watch:
        guest.wait_ticks(2)
        began = time.monotonic()
        move()
        total = time.monotonic() - began
        guest.wait_ticks(3)
    return Run(how, total, watch.outage.ping_s, watch.outage.ticks_s, os.getloadavg()[0])


class Bench:
    """A lab with agents, a guest, and who talks to them."""

    def __init__(self, lab: Lab, receiver: Receiver, shared: bool) -> None:
        self.lab = lab
        self.receiver = receiver
        self.shared = shared
        self.agents: list[Agent] = lab.agents(shared=shared, sections=_TCP)
        self.senders = [Sender(lab.transport_url, agent.host) for agent in self.agents]
        self.guest = LabGuest(
            lab,
            self.agents[0].instances_path_inside,
            program=Program(fill_mib=IN_USE_MB),
            flavor={"vcpus": 1, "memory_mb": MEMORY_MB, "root_gb": 0},
        )
        receiver.succeeded(self.senders[0].cast("spawn", instance=self.guest.instance), _DEADLINE_S)
        self.guest.wait_up()

    def by_cast(self, source: int, destination: int) -> None:
        """As a scheduler does it."""
        dest = self.agents[destination].host
        asked = self.senders[source].cast("migrate", instance_uuid=self.guest.uuid, dest=dest, mode="live")
        self.receiver.succeeded(asked, _DEADLINE_S)

    def by_libvirt(self, source: int, destination: int) -> None:
        """Past the agents, by the call that they make too; the guest is not held when it arrives."""
        libvirt = bindings()
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_PERSIST_DEST
        flags |= libvirt.VIR_MIGRATE_UNDEFINE_SOURCE | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
        flags |= libvirt.VIR_MIGRATE_UNSAFE if self.shared else libvirt.VIR_MIGRATE_NON_SHARED_DISK
        there = self.lab.hosts[destination]
        with contextlib.closing(self.lab.hosts[source].hypervisor.connect()) as connection:
            domain = connection.lookupByUUIDString(self.guest.uuid)
            parameters = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{there.address}"}
            domain.migrateToURI3(there.uri, parameters, flags)

    def rounds(self, count: int) -> Iterator[Run]:
        """Both ways of moving it, in turns. The first trips are not counted: agents and QEMU are cold."""
        for _ in range(count):
            for trip in range(_TRIPS):
                for source, destination in ((0, 1), (1, 0)):
                    run = measured(AGENTS, self.guest, lambda s=source, d=destination: self.by_cast(s, d))  # type: ignore[misc]
                    if trip:
                        yield run
            for agent in self.agents:
                agent.stop()
            for trip in range(_TRIPS):
                for source, destination in ((0, 1), (1, 0)):
                    run = self._raw(source, destination)
                    if trip:
                        yield run
            for agent in self.agents:
                agent.start()

    def _raw(self, source: int, destination: int) -> Run:
        """One trip past the agents, with what they'd have made ready for it."""
        here, there = self.lab.hosts[source], self.lab.hosts[destination]
        self.guest.carry_filters(here, there)
        if not self.shared:
            self.guest.prepare_raw(here, there)
        run = measured(RAW, self.guest, lambda: self.by_libvirt(source, destination))
        if not self.shared:  # nobody else removes what was copied
            shutil.rmtree(here.outside(self.guest.directory))
        return run

    def troubles(self) -> list[str]:
        """What went wrong for the guest; ends it, and looks at what it had written."""
        self.guest.wait_ticks(3)
        found, newest = self.guest.troubles(), self.guest.last_tick().records
        self.guest.destroy()
        judged = self.guest.judge_disk(self.lab.hosts[0])
        lost = [f"record {number} is lost" for number in judged.lost]
        return found + lost + ([] if judged.newest >= newest else [f"of {newest} records {judged.newest}"])


def table(runs: list[Run]) -> str:
    """The figures as a table of Markdown."""
    lines = [
        "| | runs | total s | away by ping s | away by ticks s | load |",
        "|---|---|---|---|---|---|",
    ]
    medians: dict[str, list[float]] = {}
    for how in (AGENTS, RAW):
        some = [run for run in runs if run.how == how]
        columns = [[getattr(run, name) for run in some] for name in ("total", "ping", "ticks", "load")]
        medians[how] = [statistics.median(values) for values in columns]
        cells = [f"{statistics.median(values):.2f} ({max(values):.2f})" for values in columns]
        lines.append(f"| {how} | {len(some)} | " + " | ".join(cells) + " |")
    parts = [f"{ours / alone:.2f}" for ours, alone in zip(medians[AGENTS], medians[RAW], strict=True)]
    lines.append("| ratio | | " + " | ".join(parts[:3]) + " | |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.measure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--own-storage", action="store_true", help="the disks are copied")
    options = parser.parse_args()
    with Lab() as lab, Receiver(lab.transport_url) as receiver:
        bench = Bench(lab, receiver, shared=not options.own_storage)
        runs = []
        for run in bench.rounds(options.rounds):
            print(run, flush=True)
            runs.append(run)
        troubles = bench.troubles()
    print(table(runs))
    print("troubles of the guest:", troubles or "none")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())

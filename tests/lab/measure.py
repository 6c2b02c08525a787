# SPDX-License-Identifier: Apache-2.0
"""Measures live migration by the agents beside raw `virsh migrate` of the same guest, in turns.

`python -m tests.lab.measure [--rounds N] [--own-storage]`, as root. A round is there and back by cast, then
there and back by virsh while the agents are stopped. Printed are the medians, with the worst in brackets: the
whole time, and how long the guest was away, by ping and by its own ticks.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator

from tests.rig.agent import Agent
from tests.rig.lab import Lab
from tests.rig.labguest import LabGuest
from tests.rig.measure import Watch
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

_TCP = {"libvirt": {"live_migration_scheme": "tcp", "live_migration_trust_shared_storage": True}}
_DEADLINE_S = 300.0


@dataclasses.dataclass(frozen=True)
class Run:
    """One migration; seconds."""

    how: str
    total: float
    ping: float
    ticks: float


def measured(how: str, guest: LabGuest, move: Callable[[], object]) -> Run:
    """Watch one migration."""
    with Watch(guest) as watch:
        guest.wait_ticks(2)
        began = time.monotonic()
        move()
        total = time.monotonic() - began
        guest.wait_ticks(3)
    return Run(how, total, watch.outage.ping_s, watch.outage.ticks_s)


class Bench:
    """A lab with agents, a guest, and who talks to them."""

    def __init__(self, lab: Lab, receiver: Receiver, shared: bool) -> None:
        self.lab = lab
        self.receiver = receiver
        self.shared = shared
        self.agents: list[Agent] = lab.agents(shared=shared, sections=_TCP)
        self.senders = [Sender(lab.transport_url, agent.host) for agent in self.agents]
        self.guest = LabGuest(lab, self.agents[0].instances_path_inside)
        receiver.succeeded(self.senders[0].cast("spawn", instance=self.guest.instance), _DEADLINE_S)
        self.guest.wait_up()

    def by_cast(self, source: int, destination: int) -> None:
        """As a scheduler does it."""
        dest = self.agents[destination].host
        asked = self.senders[source].cast("migrate", instance_uuid=self.guest.uuid, dest=dest, mode="live")
        self.receiver.succeeded(asked, _DEADLINE_S)

    def by_virsh(self, source: int, destination: int) -> None:
        """Past the agents."""
        options = ["--persistent", "--undefinesource"]
        self.guest.migrate_raw(
            self.lab.hosts[source],
            self.lab.hosts[destination],
            *options,
            "--unsafe" if self.shared else "--copy-storage-all",
        )

    def rounds(self, count: int) -> Iterator[Run]:
        """Both ways, in turns."""
        for _ in range(count):
            for source, destination in ((0, 1), (1, 0)):
                yield measured("agents", self.guest, lambda s=source, d=destination: self.by_cast(s, d))  # type: ignore[misc]
            for agent in self.agents:
                agent.stop()
            for source, destination in ((0, 1), (1, 0)):
                if not self.shared:
                    self.guest.prepare_raw(self.lab.hosts[source], self.lab.hosts[destination])
                yield measured("virsh", self.guest, lambda s=source, d=destination: self.by_virsh(s, d))  # type: ignore[misc]
            for agent in self.agents:
                agent.start()


def table(runs: list[Run]) -> str:
    """The figures as a table of Markdown."""
    lines = ["| | runs | total s | away by ping s | away by ticks s |", "|---|---|---|---|---|"]
    for how in dict.fromkeys(run.how for run in runs):
        some = [run for run in runs if run.how == how]
        columns = [[run.total for run in some], [run.ping for run in some], [run.ticks for run in some]]
        cells = [f"{statistics.median(values):.2f} ({max(values):.2f})" for values in columns]
        lines.append(f"| {how} | {len(some)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--own-storage", action="store_true", help="the disks are copied")
    options = parser.parse_args()
    with Lab() as lab, Receiver(lab.transport_url) as receiver:
        bench = Bench(lab, receiver, shared=not options.own_storage)
        runs = []
        for run in bench.rounds(options.rounds):
            print(run, flush=True)
            runs.append(run)
        print(table(runs))
        print("troubles of the guest:", bench.guest.troubles() or "none")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Spawn on QEMU, one by one and twenty at once, against libvirt alone; how long the hub was blocked."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench import breakdown
from tests.bench.client import Client, Performed
from tests.bench.figures import Result, merged
from tests.bench.floor_guest import FloorGuests
from tests.bench.lateness import Lateness
from tests.bench.parts import Parts
from tests.rig.agent import Agent
from tests.rig.guest import Guest
from tests.rig.hypervisor import bindings
from tests.rig.instance import describe
from tests.rig.receiver import Receiver

AT_ONCE = 20
_TURNS = 5
_DEFAULTS = {"max_concurrent_builds": AT_ONCE, "report_interval": 1}


class Bed:
    """An agent with a warm image, a guest of it, and what makes the same without it."""

    def __init__(self, parts: Parts, agent: Agent, receiver: Receiver) -> None:
        self.hypervisor = parts.hypervisor
        self.receiver = receiver
        self.client = Client(parts.broker.transport_url, agent.host, receiver)
        self._image = describe(parts.hypervisor.images.qcow2("bench"))["image"]
        self._sample = self.spawn(1)[0].events[0]["instance_uuid"]
        self.floor = FloorGuests(self.hypervisor, Guest(self.hypervisor, self._sample))

    def spawn(self, count: int) -> list[Performed]:
        """Spawn through the agent, all cast at once."""
        wanted = [{"instance": describe() | {"image": self._image}} for _ in range(count)]
        return self.client.perform_all("spawn", wanted)

    def destroy(self, spawned: Sequence[Performed]) -> None:
        """Destroy them again."""
        uuids = [one.events[0]["instance_uuid"] for one in spawned]
        self.client.perform_all("destroy", [{"instance_uuid": uuid} for uuid in uuids])

    def close(self) -> None:
        """Remove the sample and disconnect."""
        self.client.perform("destroy", instance_uuid=self._sample)
        self.client.close()


@contextlib.contextmanager
def bed(parts: Parts) -> Iterator[Bed]:
    """The agent with everything, for as long as it lasts."""
    with (
        Receiver(parts.broker.transport_url) as receiver,
        parts.agent(qemu=True, defaults=_DEFAULTS) as agent,
        contextlib.closing(Bed(parts, agent, receiver)) as made,
    ):
        yield made


@contextlib.contextmanager
def connections(hypervisor: Any, count: int) -> Iterator[list[Any]]:
    """That many connections to libvirt."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(bindings().open(hypervisor.uri))) for _ in range(count)]


def one_by_one(parts: Parts, quick: bool) -> list[Result]:
    """One spawn after another."""
    result = Result(
        "spawn",
        "spawn on QEMU, warm image",
        "ms",
        target=1.10,
        compares="cast → operation.succeeded received, against qemu-img create -b, define, create",
    )
    spawned: list[Performed] = []
    with bed(parts) as ours, connections(ours.hypervisor, 1) as (connection,):
        _floor(ours, connection)  # not counted: the first time costs more
        for _ in range(2 if quick else 9):
            mine, bare = [], []
            for _ in range(_TURNS):
                (one,) = ours.spawn(1)
                ours.destroy([one])
                mine.append(one)
                bare.append(_floor(ours, connection))
            spawned += mine
            result.ours.append(statistics.median(one.seconds * 1000 for one in mine))
            result.floor.append(statistics.median(bare))
    result.breakdown = breakdown.of_operations(spawned) | merged(ours.floor.breakdowns)
    result.notes.append(f"{_TURNS} spawns of each in turns per round, the median of each")
    return [result]


def _floor(ours: Bed, connection: Any) -> float:
    seconds, uuid = ours.floor.time_one(connection)
    ours.floor.remove([uuid])
    return seconds * 1000


def at_once(parts: Parts, quick: bool) -> list[Result]:
    """Twenty spawns at once, and how long the hub was blocked."""
    result = Result(
        "spawn20",
        f"{AT_ONCE} spawns at once",
        "s",
        target=1.10,
        compares=f"first cast → last operation.succeeded received, against {AT_ONCE} native threads",
    )
    hub = Result(
        "hub",
        f"longest block of the hub, {AT_ONCE} spawns",
        "ms",
        compares="hub_blocked_ms of host.report, against how late a process wakes up that only sleeps",
    )
    parted = []
    with (
        bed(parts) as ours,
        connections(ours.hypervisor, AT_ONCE) as many,
        Lateness() as lateness,
    ):
        for number in range(1 if quick else 5):
            if number % 2:
                _floor_at_once(ours, many, result)
            parted.append(_ours_at_once(ours, result, hub, lateness))
            if not number % 2:
                _floor_at_once(ours, many, result)
    result.breakdown = merged(parted) | merged(ours.floor.breakdowns)
    return [result, hub]


def _ours_at_once(ours: Bed, result: Result, hub: Result, lateness: Lateness) -> dict[str, float]:
    _fresh_report(ours)
    lateness.take_worst()
    mark = ours.receiver.mark()
    spawned = ours.spawn(AT_ONCE)
    began = min(one.cast_at for one in spawned)
    result.ours.append(max(one.received_at for one in spawned) - began)
    _fresh_report(ours)
    hub.floor.append(lateness.take_worst())
    events = ours.receiver.events[mark:]
    reports = [event["data"] for event in events if event["type"] == "host.report"]
    hub.ours.append(max(report["hub_blocked_ms"] for report in reports))
    ours.destroy(spawned)
    return breakdown.of_operations(spawned)


def _fresh_report(ours: Bed) -> None:
    """Wait for the next report: each tells of the time since the one before it."""
    ours.receiver.wait_for(type="host.report", since=ours.receiver.mark(), timeout=30)


def _floor_at_once(ours: Bed, many: Sequence[Any], result: Result) -> None:
    seconds, uuids = ours.floor.time_many(many)
    result.floor.append(seconds)
    ours.floor.remove(uuids)

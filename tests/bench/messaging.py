# SPDX-License-Identifier: Apache-2.0
"""What the agent itself costs: spawns of the fake driver, against a bare server that only notifies."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench import breakdown
from tests.bench.client import Client, FloorReceiver, Performed
from tests.bench.figures import Result
from tests.bench.names import TEMPLATE
from tests.bench.parts import Parts
from tests.rig.instance import describe
from tests.rig.receiver import Receiver

_COMMAND = [sys.executable, "-m", "tests.bench.floor_server"]


class Floor:
    """A bare server; what it publishes for each cast can be chosen."""

    def __init__(self, client: Client, template: pathlib.Path) -> None:
        self.client = client
        self._template = template

    def publishes(self, payloads: Sequence[dict[str, Any]]) -> None:
        """From now on these, for each cast."""
        self._template.write_text(json.dumps(list(payloads)))
        self.client.perform("template")


@contextlib.contextmanager
def fake(parts: Parts) -> Iterator[Client]:
    """A client of an agent with the fake driver."""
    url = parts.broker.transport_url
    with (
        Receiver(url) as receiver,
        parts.agent(qemu=False) as agent,
        contextlib.closing(Client(url, agent.host, receiver)) as client,
    ):
        yield client


@contextlib.contextmanager
def bare(parts: Parts) -> Iterator[Floor]:
    """A bare server and its client."""
    with tempfile.NamedTemporaryFile(suffix=".json") as template:
        environment = {TEMPLATE: template.name}
        url = parts.broker.transport_url
        with (
            FloorReceiver(url) as receiver,
            parts.agent(qemu=False, command=_COMMAND, environment=environment) as server,
            contextlib.closing(Client(url, server.host, receiver)) as client,
        ):
            yield Floor(client, pathlib.Path(template.name))


def _wanted(count: int) -> list[dict[str, object]]:
    return [{"instance": describe(kernel="file:///nowhere/kernel")} for _ in range(count)]


def _stored(one: Performed) -> list[dict[str, Any]]:
    return [event for event in one.events if event.get("seq") is not None]


def one_by_one(parts: Parts, quick: bool) -> list[Result]:
    """One spawn after another."""
    count, rounds = (20, 3) if quick else (60, 5)
    result = Result(
        "fake",
        "fake spawn, one after another",
        "ms",
        target=3.0,
        compares="cast → operation.succeeded received, against a bare server that publishes one notification",
    )
    done: list[Performed] = []
    with fake(parts) as client, bare(parts) as floor:
        sample = client.perform("spawn", **_wanted(1)[0])
        floor.publishes(_stored(sample)[-1:])
        _sequence(client, 5)
        _sequence(floor.client, 5)
        for _ in range(rounds):
            mine, bare_ones = [], []
            for _ in range(count):
                mine += _sequence(client, 1)
                bare_ones += _sequence(floor.client, 1)
            done += mine
            result.ours.append(_median(mine))
            result.floor.append(_median(bare_ones))
    result.breakdown = breakdown.of_operations(done)
    result.notes.append(
        f"{count} spawns of each in turns per round, the median; {len(_stored(sample))} events for each"
    )
    return [result]


def _sequence(client: Client, count: int) -> list[Performed]:
    return [client.perform("spawn", **wanted) for wanted in _wanted(count)]


def _median(done: Sequence[Performed]) -> float:
    return sorted(one.seconds for one in done)[len(done) // 2] * 1000


def burst(parts: Parts, quick: bool) -> list[Result]:
    """Many at once, by the rate."""
    count, rounds = (300, 1) if quick else (1000, 3)
    result = Result(
        "burst",
        f"burst of {count} fake spawns",
        "/s",
        target=0.5,
        more_is_better=True,
        compares="by the rate, against a bare server that publishes as many notifications, of the same size",
    )
    with fake(parts) as client, bare(parts) as floor:
        sample = client.perform("spawn", **_wanted(1)[0])
        floor.publishes(_stored(sample))
        client.burst("spawn", _wanted(50))
        floor.client.burst("spawn", _wanted(50))
        for number in range(rounds):
            if number % 2:
                result.floor.append(count / floor.client.burst("spawn", _wanted(count)))
            result.ours.append(count / client.burst("spawn", _wanted(count)))
            if not number % 2:
                result.floor.append(count / floor.client.burst("spawn", _wanted(count)))
    result.notes.append(f"{len(_stored(sample))} events for each")
    return [result]

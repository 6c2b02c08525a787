# SPDX-License-Identifier: Apache-2.0
"""Whatever the broker or the way to it does: no operation and no event is lost, none is done twice.

In each test guests live and die while the trouble lasts; afterwards all of it is judged from outside. The
agent reaches the broker through a proxy; senders and receiver are there directly. It stays alive, says in its
STATUS that the broker is away, and comes back by itself.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chaos.traffic import IMAGE, LIFE, Judge, Traffic, is_end
from tests.rig import wire
from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.instance import describe
from tests.rig.process import wait_until
from tests.rig.proxy import BOTH, Proxy, Way
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

HEARTBEAT_S = 3
"""Noticed after two to three of these: a connection whose other end says nothing."""
STATUS_EVERY_US = "500000"
"""The service manager's wish to hear from the agent: it sends its STATUS as often, or twice."""
BACK_S = 40.0
"""How long coming back may take on a slow machine; it is seconds."""
LIVES = 8
CUTS = 10
OUTBOX_LIVES = 500
MANY_LIVES = 4000
GROWTH_KIB = 24 * 1024
"""What the memory may grow by while events are kept: SQLite's cache, and some of the latest events."""
RESERVE = 10**12
"""Bytes of disk that must be free, more than there are: the alarm goes off."""

Trouble = Callable[[], object]


class Lab:
    """The agent behind its proxy, the receiver, and the judge of both."""

    def __init__(self, broker: Broker, proxy: Proxy, agent: Agent, receiver: Receiver) -> None:
        self.broker = broker
        self.proxy = proxy
        self.agent = agent
        self.receiver = receiver
        self.judge = Judge(broker, agent, receiver)

    def traffic(self, lives: int = LIVES, **options: Any) -> Traffic:
        return Traffic(self.broker, self.agent, lives, ended=self.judge.has_ended, **options)

    def wait_status(self, text: str, *, there: bool = True, timeout: float = BACK_S) -> str:
        """Wait until the agent's STATUS has a text, or no longer has it; that STATUS."""
        wait_until(
            lambda: (text in self.agent.status) is there,
            timeout,
            f"{text!r} {'in' if there else 'out of'} STATUS",
            self.agent.evidence,
        )
        return self.agent.status

    def wait_back(self) -> None:
        """Wait until the agent has its connections again: one to consume, one for events."""
        wait_until(lambda: self.proxy.connections >= 2, BACK_S, "the agent's return", self.agent.evidence)

    def wait_taken(self, timeout: float = BACK_S) -> None:
        """Wait until the agent has taken everything off its queue."""
        queue, evidence = wire.agent_queue(self.agent.host), self.agent.evidence
        wait_until(lambda: self.broker.queue_length(queue) == 0, timeout, "an empty queue", evidence)

    def all_is_well(self, traffic: Traffic) -> None:
        """Everything that was sent has come to its end, once; the agent says nothing of a broker."""
        traffic.wait_sent()
        self.judge.wait_ends(traffic)
        outcome = self.judge.judge(traffic)
        assert outcome.faults == {}, str(outcome)
        self.wait_status("broker away", there=False)
        self.wait_status("events are kept", there=False)
        assert self.agent.running


@pytest.fixture(scope="module")
def lab(rig: Callable[[Any], Any], broker: Broker) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(broker.transport_url))
        agent = Agent(transport_url=proxy.transport_url, environment={"WATCHDOG_USEC": STATUS_EVERY_US})
        agent.configure(
            {
                "fake": {"ledger": agent.scratch / "ledger"},
                "oslo_messaging_rabbit": {"heartbeat_timeout_threshold": HEARTBEAT_S},
            }
        )
        receiver = stack.enter_context(Receiver(broker.transport_url, host=agent.host))
        stack.enter_context(agent)
        broker.settle()
        yield Lab(broker, proxy, agent, receiver)


@pytest.fixture(autouse=True)
def mended(lab: Lab) -> Iterator[None]:
    """However a test ends: the proxy lets everything pass."""
    yield
    lab.proxy.flow()


# --- the way to the broker ------------------------------------------------------------------------------


def test_connections_are_cut_again_and_again(lab: Lab) -> None:
    lives = CUTS * 3
    with lab.traffic(lives, free=False) as traffic:
        for _ in range(CUTS):
            traffic.allow(lives * len(LIFE) // CUTS)
            wait_until(
                lambda: lab.proxy.connections >= 2, BACK_S, "the agent's connections", lab.proxy.evidence
            )
            lab.proxy.cut()
        lab.all_is_well(traffic)


def be_noticed(lab: Lab, trouble: Trouble) -> None:
    """Let trouble begin in the middle of work, and the agent notice it by itself."""
    with lab.traffic() as traffic:
        traffic.wait_confirmed(LIVES)
        trouble()
        lab.wait_status("broker away")
        assert lab.agent.running
        lab.proxy.flow()
        lab.all_is_well(traffic)


@pytest.mark.parametrize(
    "ways",
    [
        BOTH,
        pytest.param({Way.TO_BROKER}, marks=pytest.mark.long),
        pytest.param({Way.TO_CLIENT}, marks=pytest.mark.long),
    ],
    ids=["both ways", "to the broker", "to the agent"],
)
def test_a_stalled_connection_is_noticed_by_its_heartbeat(lab: Lab, ways: set[Way]) -> None:
    be_noticed(lab, lambda: lab.proxy.stall(ways))


@pytest.mark.long
def test_a_broker_that_vanished_is_noticed_by_its_heartbeat(lab: Lab) -> None:
    def vanish() -> None:
        lab.proxy.refuse()
        lab.proxy.vanish()

    be_noticed(lab, vanish)


def test_a_half_open_connection_is_replaced_without_help(lab: Lab) -> None:
    with lab.traffic() as traffic:
        traffic.wait_confirmed(LIVES)
        lab.proxy.vanish()
        lab.all_is_well(traffic)


@pytest.mark.long
def test_a_slow_line_delays_and_loses_nothing(lab: Lab) -> None:
    with lab.traffic() as traffic:
        lab.proxy.slow(20_000)
        traffic.wait_sent()
        lab.judge.wait_ends(traffic, timeout=120)
        lab.proxy.flow()
        lab.all_is_well(traffic)


def test_events_of_an_outage_are_kept_on_disk_and_come_in_order(lab: Lab) -> None:
    with lab.traffic(OUTBOX_LIVES, life=["spawn"]) as traffic:
        lab.agent.suspend()
        traffic.wait_sent()
        lab.agent.resume()
        lab.wait_taken()
        lab.proxy.refuse()
        lab.proxy.cut()
        keep(lab, traffic, lab.proxy.flow)


def keep(lab: Lab, traffic: Traffic, cure: Trouble) -> None:
    """Let the agent do its work without being able to tell; then cure that."""
    before = lab.agent.memory_kib()
    lab.wait_status("events are kept")
    lab.wait_status("0 running, 0 waiting", timeout=600)
    growth = lab.agent.memory_kib() - before
    told = {event["seq"] for event in lab.receiver.distinct()}
    began = time.monotonic()
    cure()
    lab.all_is_well(traffic)
    kept = len({event["seq"] for event in lab.receiver.distinct()} - told)
    print(f"\n{kept} events were kept, with {growth} KiB more memory; ", end="")
    print(f"they were there {time.monotonic() - began:.1f} s after the cure")
    assert growth < GROWTH_KIB
    assert kept > len(traffic.guests)


# --- the broker itself ----------------------------------------------------------------------------------


@pytest.fixture
def disk_alarm(broker: Broker) -> Iterator[Trouble]:
    yield lambda: broker.ctl("set_disk_free_limit", str(RESERVE))
    broker.ctl("set_disk_free_limit", "50MB")


@pytest.fixture
def memory_alarm(broker: Broker) -> Iterator[Trouble]:
    yield lambda: broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    broker.ctl("set_vm_memory_high_watermark", "absolute", "1GB")


@pytest.mark.parametrize("alarm", ["disk_alarm", pytest.param("memory_alarm", marks=pytest.mark.long)])
def test_an_alarm_of_the_broker_is_waited_for(lab: Lab, alarm: str, request: pytest.FixtureRequest) -> None:
    trouble = request.getfixturevalue(alarm)
    guest = describe(IMAGE)
    with lab.traffic(free=False) as traffic, Sender(lab.broker.transport_url, lab.agent.host) as to:
        lab.receiver.succeeded(to.cast("spawn", instance=guest), timeout=BACK_S)
        traffic.allow(LIVES)
        traffic.wait_confirmed(LIVES)
        trouble()
        traffic.allow(LIVES * len(LIFE))
        shut_down(lab.agent, guest["uuid"])
        status = lab.wait_status("events are kept")
        assert "disk or its memory" in status
        assert "broker away" not in status
        accepted = lab.proxy.accepted
        lab.wait_status("(for 8 s)")
        assert lab.proxy.accepted == accepted, "connections were made that the broker does not read"
        lift(lab.broker, alarm)
        stopped = {"type": "instance.lifecycle.stopped", "instance_uuid": guest["uuid"]}
        lab.receiver.wait_for(timeout=BACK_S, **stopped)
        lab.all_is_well(traffic)


def shut_down(agent: Agent, uuid: str) -> None:
    """Let a guest shut itself down: something to tell."""
    with (agent.scratch / "ledger").open("a") as ledger:
        ledger.write(json.dumps({"guest": uuid, "power": "shutdown"}) + "\n")


def lift(broker: Broker, alarm: str) -> None:
    if alarm == "disk_alarm":
        broker.ctl("set_disk_free_limit", "50MB")
    else:
        broker.ctl("set_vm_memory_high_watermark", "absolute", "1GB")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_thousands_of_operations_end_while_the_broker_takes_no_event(lab: Lab, disk_alarm: Trouble) -> None:
    with lab.traffic(MANY_LIVES, life=["spawn"]) as traffic:
        lab.agent.suspend()
        traffic.wait_sent()
        disk_alarm()
        lab.agent.resume()
        lab.wait_status("events are kept")
        lab.wait_taken(timeout=600)
        keep(lab, traffic, lambda: lift(lab.broker, "disk_alarm"))


def test_a_deleted_queue_is_made_again(lab: Lab, to_broker: Any) -> None:
    queue = wire.agent_queue(lab.agent.host)
    with lab.traffic(free=False) as traffic:
        traffic.allow(LIVES)
        traffic.wait_confirmed(LIVES)
        lab.wait_taken()
        to_broker.queue_delete(queue)  # what waits in it would be gone: that is the one who deletes
        traffic.allow(LIVES * len(LIFE))
        lab.all_is_well(traffic)


@pytest.mark.long
def test_a_deleted_exchange_is_made_again_and_the_queue_is_bound_to_it(lab: Lab, to_broker: Any) -> None:
    with lab.traffic(free=False) as traffic:
        traffic.allow(LIVES)
        traffic.wait_confirmed(LIVES)
        lab.judge.wait_ends(traffic)
        lab.broker.settle()
        to_broker.exchange_delete(wire.EXCHANGE)
        to_broker.exchange_declare(wire.EXCHANGE, "topic", durable=True, auto_delete=False)
        to_broker.queue_bind(lab.receiver.queue, wire.EXCHANGE, wire.EVENTS_ROUTING_KEY)
        traffic.allow(LIVES * len(LIFE))
        lab.all_is_well(traffic)


def test_a_refused_event_is_offered_until_it_is_taken(lab: Lab, to_broker: Any) -> None:
    full = f"full-{lab.agent.host}"
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    to_broker.queue_declare(full, durable=True, auto_delete=False, arguments=arguments)
    to_broker.queue_bind(full, wire.EXCHANGE, wire.EVENTS_ROUTING_KEY)
    try:
        with lab.traffic() as traffic:
            status = lab.wait_status("events are kept")
            assert "could not keep" in status
            to_broker.queue_delete(full)
            lab.all_is_well(traffic)
    finally:
        to_broker.queue_delete(full)


def test_repeated_and_reordered_casts_are_done_once(lab: Lab) -> None:
    spawns = [{"operation_id": op, "instance": describe(IMAGE)} for op in _ids(2 * LIVES)]
    deliveries = random.Random(7).sample(spawns * 3, k=3 * len(spawns))
    since = lab.receiver.mark()
    with Sender(lab.broker.transport_url, lab.agent.host) as to:
        for arguments in deliveries:
            to.cast("spawn", **arguments)
        for arguments in spawns:
            operation = arguments["operation_id"]
            lab.receiver.wait_for(
                since=since, type="operation.succeeded", operation_id=operation, timeout=BACK_S
            )
        to.call("ping")
        ends = [event["operation_id"] for event in lab.receiver.distinct() if is_end(event)]
        for arguments in spawns:
            assert ends.count(arguments["operation_id"]) == 1
            destroyed = to.cast("destroy", instance_uuid=arguments["instance"]["uuid"])
            lab.receiver.succeeded(destroyed, timeout=BACK_S)
    lab.receiver.assert_gapless()


def _ids(number: int) -> list[str]:
    return [str(describe()["uuid"]) for _ in range(number)]


@pytest.fixture
def to_broker(broker: Broker) -> Iterator[Any]:
    """A plain channel."""
    connection = wire.connect(broker.transport_url)
    yield connection.channel()
    wire.close(connection)


@pytest.mark.parametrize(
    ("operations", "kills"),
    [(200, 2), pytest.param(10_000, 100, marks=[pytest.mark.long, pytest.mark.timeout(7200)])],
)
def test_the_broker_is_killed_again_and_again(lab: Lab, operations: int, kills: int) -> None:
    """Half of the operations are spawns as fast as they go, the other half lives in their order."""
    chance = random.Random(kills)
    half, share = operations // 2, operations // kills // 2
    lab.broker.settle()
    slowest, memory = 0.0, lab.agent.memory_kib()
    began = time.monotonic()
    with (
        lab.traffic(half, free=False, senders=4, life=["spawn"]) as flood,
        lab.traffic(half // len(LIFE), free=False) as lives,
    ):
        for number in range(kills):
            flood.allow(share)
            lives.allow(share)
            flood.wait_confirmed(number * share + chance.randrange(share), timeout=120)
            lab.broker.kill()
            lab.broker.start()
            cured = time.monotonic()
            lab.wait_back()
            slowest = max(slowest, time.monotonic() - cured)
        for traffic in (flood, lives):
            traffic.allow(operations)
            traffic.wait_sent()
            lab.judge.wait_ends(traffic)
            print(f"\n{kills} kills in {time.monotonic() - began:.0f} s: {lab.judge.judge(traffic)}")
        print(f"back after {slowest:.1f} s at most; memory {memory} -> {lab.agent.memory_kib()} KiB")
        lab.all_is_well(flood)
        lab.all_is_well(lives)

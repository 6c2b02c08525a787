# SPDX-License-Identifier: Apache-2.0
"""Work under way while the broker has trouble, and what came of it, judged from outside.

Several senders each send the lives of guests, verb by verb, as a careful scheduler does: what the broker
has not confirmed is sent again under the same operation id, and the next verb of a guest is sent when the
one before has ended (a broker that comes back redelivers in whatever order). What came of it is judged by
the events as a plain receiver had them, and by the fake hypervisor's ledger, which knows each effect.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid as uuids
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import amqp

from tests.chaos.fake import LedgerWorld
from tests.rig import wire
from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.instance import describe
from tests.rig.process import wait_until
from tests.rig.receiver import ENDS, Payload, Receiver
from tests.rig.sender import Sender, UndeliverableError

IMAGE = Path("/images/any.qcow2")
LIFE = ("spawn", "pause", "unpause", "suspend")
UNCONFIRMED = (*wire.BROKEN, amqp.exceptions.MessageNacked, UndeliverableError)
"""After these the broker has the message or not; right after its start it may know no queue yet."""
PAUSE_S = 0.1
POLL_S = 0.01
RESEND_S = 300.0


@dataclasses.dataclass
class Outcome:
    """What came of the work. Everything but the first three has to be empty."""

    operations: int
    events: int
    resent: int
    lost: list[str]
    ended_twice: list[str]
    not_succeeded: list[str]
    odd_effects: dict[str, list[str]]
    disorder: list[str]

    @property
    def faults(self) -> dict[str, Any]:
        """What is wrong."""
        fields = dataclasses.asdict(self)
        return {name: fields[name] for name in list(fields)[3:] if fields[name]}

    def __str__(self) -> str:
        counted = list(dataclasses.asdict(self).items())[3:]
        told = ", ".join(f"{name.replace('_', ' ')} {len(found)}" for name, found in counted)
        return f"{self.operations} operations, {self.resent} sent again, {self.events} events: {told}"


class Traffic:
    """Lives of guests, sent by some threads.

    lives: how many guests; each is an operation per verb of LIFE. senders: threads, each with a connection
    of its own, straight to the broker. life: the verbs. free: send all at once, else as many as `allow`
    says. ended: tells whether an operation has.
    """

    def __init__(
        self,
        broker: Broker,
        agent: Agent,
        lives: int,
        *,
        ended: Callable[[str], bool],
        senders: int = 8,
        life: Sequence[str] = LIFE,
        free: bool = True,
    ) -> None:
        self.agent = agent
        self.life = life
        self._ended = ended
        self.guests: list[str] = []
        self.operations: list[str] = []
        self.confirmed = 0
        self.attempts = 0
        self._url = broker.transport_url
        self._lock = threading.Lock()
        self._allowed = threading.Semaphore(lives * len(life) if free else 0)
        self._stopping = threading.Event()
        self._failed: list[BaseException] = []
        shares = [len(range(number, lives, senders)) for number in range(senders)]
        self._threads = [threading.Thread(target=self._send, args=(share,), daemon=True) for share in shares]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self.allow(len(self._threads))
        for thread in self._threads:
            thread.join(30)

    def allow(self, operations: int) -> None:
        """Let so many more be sent."""
        self._allowed.release(operations)

    def wait_confirmed(self, operations: int, timeout: float = 60.0) -> None:
        """Wait until so many were confirmed to the senders in all."""
        wait_until(lambda: self.confirmed >= operations or self._failed, timeout, f"{operations} sent", str)
        assert not self._failed, self._failed

    def wait_sent(self, timeout: float = 120.0) -> None:
        """Wait until everything was."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(deadline - time.monotonic())
            assert not thread.is_alive(), f"{self.confirmed} were confirmed"
        assert not self._failed, self._failed

    def _send(self, lives: int) -> None:
        try:
            with Sender(self._url, self.agent.host) as to:
                for _ in range(lives):
                    self._live(to)
        except BaseException as error:
            self._failed.append(error)

    def _live(self, to: Sender) -> None:
        guest = describe(IMAGE)
        with self._lock:
            self.guests.append(guest["uuid"])
        before = ""
        for verb in self.life:
            while before and not self._ended(before) and not self._stopping.wait(POLL_S):
                pass
            self._allowed.acquire()
            if self._stopping.is_set():
                return
            arguments = {"instance": guest} if verb == "spawn" else {"instance_uuid": guest["uuid"]}
            before = self._until_confirmed(to, verb, arguments)

    def _until_confirmed(self, to: Sender, verb: str, arguments: dict[str, Any]) -> str:
        operation = str(uuids.uuid4())
        with self._lock:
            self.operations.append(operation)
        deadline = time.monotonic() + RESEND_S
        while not self._stopping.is_set():
            with self._lock:
                self.attempts += 1
            try:
                to.cast(verb, operation_id=operation, **arguments)
                break
            except UNCONFIRMED:
                if time.monotonic() > deadline:
                    raise
                self._stopping.wait(PAUSE_S)
        with self._lock:
            self.confirmed += 1
        return operation


class Judge:
    """Looks at one agent with a ledger, over all that is sent to it."""

    def __init__(self, broker: Broker, agent: Agent, receiver: Receiver) -> None:
        self.agent = agent
        self.receiver = receiver
        self._world = LedgerWorld(agent.scratch / "ledger")
        self._looked_to = 0
        self._lock = threading.Lock()
        self._ended: Counter[str] = Counter()
        with Traffic(broker, agent, 1, ended=self.has_ended) as calm:
            calm.wait_sent()
            self.wait_ends(calm)
        self._world.read()
        self._usual = list(self._world.effects[calm.guests[0]])
        assert self._usual

    def ended(self) -> Counter[str]:
        """How often each operation has ended, repetitions on the way counted too."""
        with self._lock:
            fresh = self.receiver.deliveries[self._looked_to :]
            self._looked_to += len(fresh)
            for delivery in fresh:
                if delivery.payload["type"] in ENDS:
                    self._ended[str(delivery.payload["operation_id"])] += 1
        return self._ended

    def has_ended(self, operation: str) -> bool:
        """Whether the end of an operation was told."""
        return operation in self.ended()

    def wait_ends(self, traffic: Traffic, timeout: float = 90.0) -> None:
        """Wait until all has ended."""
        wait_until(
            lambda: self.ended().keys() >= set(traffic.operations),
            timeout,
            f"the end of {len(traffic.operations)} operations",
            lambda: (
                f"{len(set(traffic.operations) - self.ended().keys())} have not ended\n"
                + self.receiver.evidence()
            ),
        )

    def _effects_of(self, traffic: Traffic) -> int:
        """How many effects a life of this traffic has, of the usual one's: all, or those of its spawn."""
        return len(self._usual) - (len(LIFE) - len(traffic.life))

    def judge(self, traffic: Traffic) -> Outcome:
        """Say what came of it, now that all has ended."""
        events = [event for event in self.receiver.distinct() if event["host"] == self.agent.host]
        mine = set(traffic.operations)
        ends = [event for event in events if is_end(event) and event["operation_id"] in mine]
        counts = Counter(event["operation_id"] for event in ends)
        self._world.read()
        return Outcome(
            operations=len(mine),
            events=len(events),
            resent=traffic.attempts - traffic.confirmed,
            lost=sorted(mine - counts.keys()),
            ended_twice=[operation for operation, number in counts.items() if number > 1],
            not_succeeded=[f"{e['type']} {e['data']}" for e in ends if e["type"] != "operation.succeeded"],
            odd_effects={
                uuid: self._world.effects[uuid]
                for uuid in traffic.guests
                if self._world.effects[uuid] != self._usual[: self._effects_of(traffic)]
            },
            disorder=list(_disorder(events)),
        )


def is_end(event: Payload) -> bool:
    """Whether an event ends its operation; who asks again for one that has ended is told its end again."""
    return event["type"] in ENDS and not event["data"].get("repeated")


def _disorder(events: list[Payload]) -> list[str]:
    """What is wrong with the order of events, repetitions dropped: each epoch goes up by one."""
    wrong, last = [], dict[str, int]()
    for event in events:
        before = last.get(event["epoch"], 0)
        if event["seq"] != before + 1:
            wrong.append(f"event {event['seq']} ({event['type']}) came after {before}")
        last[event["epoch"]] = event["seq"]
    return wrong

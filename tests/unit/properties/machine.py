# SPDX-License-Identifier: Apache-2.0
"""What is around every agent.

A scheduler that asks, asks again and cancels; a broker that hands out again what was not acknowledged, and
takes events when it likes; a disk that fails; and somebody who kills the agent at any moment.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import random
import tempfile
import uuid
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from compute_agent import concurrency, failpoints
from compute_agent.events.publisher import Publisher
from compute_agent.model import errors
from compute_agent.model.operation import Operation
from compute_agent.operations.acceptance import Accepted, propose
from compute_agent.operations.engine import Engine
from compute_agent.store import journal, outbox
from tests.unit.properties.life import ACT, LIMIT_S, POINTS, Life, Lives
from tests.unit.properties.receiver import Receiver

WHICH = st.one_of(st.just(0), st.integers(0, 7))
"""Which of the operations, the latest first."""
TOLD_S = 10
"""How long events may take to come when nothing is in their way, in seconds."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A request on its way. A redelivered one is equal to the first."""

    operation_id: str
    verb: str
    values: dict[str, Any]
    unique_id: str


class Around(RuleBasedStateMachine):
    """Everything around an agent. What it is made of, and who judges what its verbs did, is another's."""

    engine: Engine
    publisher: Publisher

    def __init__(self) -> None:
        super().__init__()
        self._scratch = tempfile.TemporaryDirectory(prefix="property-")
        self.path = Path(self._scratch.name)
        self._ids = random.Random(0)
        self.receiver = Receiver()
        self.queue: collections.deque[Message] = collections.deque()
        """What the broker holds, that in flight included."""
        self.asked: list[Message] = []
        self.sent_anew: set[str] = set()
        self.promised: set[str] = set()
        """Operations whose messages were acknowledged."""
        self.set_up()
        self.lives = Lives(self.path, self.begin)

    def set_up(self) -> None:
        """Make what outlives the agent."""

    def begin(self, life: Life) -> None:
        """Make the agent of this life: its engine and its publisher."""
        raise NotImplementedError

    def _bury(self) -> None:
        while self.lives.now.dead:
            self.away()
            self.lives.next()

    def away(self) -> None:
        """What happens while no agent is there."""

    # --- the scheduler ----------------------------------------------------------------------------------

    def new_id(self) -> str:
        return str(uuid.UUID(int=self._ids.getrandbits(128), version=4))

    def request(self, verb: str, values: dict[str, Any]) -> None:
        """Send a new request; it waits at the broker until it is delivered."""
        operation_id = self.new_id()
        message = Message(operation_id, verb, values | {"operation_id": operation_id}, self.new_id())
        self.asked.append(message)
        self.queue.append(message)

    @rule(which=WHICH, how=st.sampled_from(("redelivered", "sent anew", "another thing, same id")))
    def comes_again(self, which: int, how: str) -> None:
        """The broker delivers twice; a sender has lost patience, or has mistaken its ids."""
        if not self.asked:
            return
        message = self.asked[-1 - which % len(self.asked)]
        if how == "sent anew":
            self.sent_anew.add(message.operation_id)
            message = dataclasses.replace(message, unique_id=self.new_id())
        elif how != "redelivered":
            values = message.values | {"timeout_s": 1234.0}
            message = dataclasses.replace(message, values=values, unique_id=self.new_id())
        self.queue.append(message)
        self.deliver(len(self.queue))

    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        if self.asked:
            concurrency.spawn(self._cancel, self.asked[-1 - which % len(self.asked)].operation_id)
            concurrency.sleep(0)

    def _cancel(self, operation_id: str) -> None:
        with contextlib.suppress(errors.ComputeError):  # it has ended otherwise, or the disk fails
            self.engine.cancel(operation_id)

    # --- the broker -------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        batch = [self.queue[number] for number in range(min(count, len(self.queue)))]
        if batch and self._accept(batch):
            for _ in batch:
                self.queue.popleft()

    def _accept(self, batch: list[Message]) -> bool:
        """Hand messages in; return whether they may be acknowledged, as far as anyone is alive to do so."""
        life, table = self.lives.now, self.engine.table
        proposals = [
            propose(table[m.verb], m.verb, m.operation_id, m.values, unique_id=m.unique_id) for m in batch
        ]
        try:
            accepted = self.engine.accept(proposals)
        except errors.ComputeError:
            accepted = []
        if life.dead:
            self._bury()
            return False
        self._look_at(batch, accepted)
        return bool(accepted)

    def _look_at(self, batch: list[Message], accepted: list[Accepted]) -> None:
        for message, one in zip(batch, accepted, strict=False):
            assert one.operation is not None and one.operation.verb == message.verb
            assert not (one.fresh and message.operation_id in self.promised), "it was new twice"
            first = next(m for m in self.asked if m.operation_id == message.operation_id)
            assert (one.conflict is not None) is (message.values != first.values)
            self.promised.add(message.operation_id)

    @rule(up=st.booleans(), take=st.integers(1, 15), lose_answer=st.booleans())
    def the_broker_is_or_will_be_away(self, up: bool, take: int, lose_answer: bool) -> None:
        self.receiver.up, self.receiver.take, self.receiver.lose_answer = up, take, lose_answer

    # --- the host ---------------------------------------------------------------------------------------

    @rule(point=st.sampled_from(POINTS))
    def the_agent_is_killed(self, point: str) -> None:
        self.lives.now.kill(point)
        self._bury()

    @rule(point=st.sampled_from((*POINTS, ACT)), passes=st.integers(0, 12))
    def the_agent_will_be_killed(self, point: str, passes: int) -> None:
        self.lives.now.doom(point, passes)

    @rule(patience=st.sampled_from((0.0, 0.01)), cancelled=st.none() | WHICH)
    def the_agent_is_restarted(self, patience: float, cancelled: int | None) -> None:
        """It ends in good order, and goes on; the first that it may hear then is to cancel something."""
        self.engine.stop(patience)
        self.publisher.stop(timeout=patience)
        self.away()
        self.lives.next()
        if cancelled is not None:
            self.cancel(cancelled)
        self._bury()

    @rule(point=st.sampled_from(("store.commit.before", "store.commit.inside")), count=st.integers(1, 4))
    def the_disk_fails(self, point: str, count: int) -> None:
        failpoints.arm(f"{point}=raise:DiskFull*{count}")

    def settle(self) -> None:
        """Let what can go on go on, for a few commits."""
        for _ in range(3):
            self.lives.now.store.submit(lambda tx: None).ended.wait(LIMIT_S)
            concurrency.sleep(0)
        self._bury()

    # --- what always holds ------------------------------------------------------------------------------

    @invariant()
    def events_come_in_order(self) -> None:
        assert not self.receiver.wrong

    def teardown(self) -> None:
        try:
            self._end()
        finally:
            self.lives.now.end()
            self._scratch.cleanup()

    def _end(self) -> None:
        """All troubles are over: then everything comes to its end."""
        failpoints.arm("")
        self.lives.next()
        self.receiver.up, self.receiver.take = True, 10**9
        self.let_go()
        while self.queue:
            self.deliver(5)
        for entry in self.engine.entries:
            assert entry.ended.wait(LIMIT_S), f"{entry.verb.name} {entry.operation_id} does not end"
        self._wait_told()
        assert not self.receiver.wrong
        self._judge_operations()
        self.judge()

    def let_go(self) -> None:
        """Hold nobody back any more."""

    def judge(self) -> None:
        """Look at what came of it all."""

    def judge_effect(self, operation: Operation) -> None:
        """Look at what an operation did."""

    def half_destroyed(self, uuid: str) -> bool:
        """Whether a destroy of an instance ended on its way, as the test may want it."""
        return any(
            event["instance_uuid"] == uuid
            and event["data"].get("verb") == "destroy"
            and event["type"] in ("operation.failed", "operation.cancelled")
            for event in self.receiver.events
        )

    def _wait_told(self) -> None:
        last = self.lives.now.store.read(outbox.last_seq)
        waited = 0
        while len(self.receiver.events) < last:
            waited += 1
            assert waited < 1000 * TOLD_S, f"{len(self.receiver.events)} of {last} events came"
            concurrency.sleep(0.001)

    def _judge_operations(self) -> None:
        assert self.promised == {message.operation_id for message in self.asked}
        ends, store = self.receiver.ends(), self.lives.now.store
        for operation_id in self.promised:
            record = store.read(lambda tx, one=operation_id: journal.find(tx, one))
            assert record is not None and record.ended
            assert [end["data"]["state"] for end in ends[operation_id]] == [record.state]
            told = self.receiver.types_of(operation_id)
            begun = ["accepted"] * (told[0] == "accepted") + ["started"] * record.attempts
            assert told == [*begun, record.state], (told, record)
            self.judge_effect(record)
        assert self.receiver.repeated() <= self.sent_anew
        assert ends.keys() == self.promised
        secrets = "SELECT count(*) FROM operations WHERE arguments IS NOT NULL"
        assert store.read(lambda tx: tx.row(secrets)) == (0,)

# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to broker, disk and agent, each event arrives: in order, without gaps, unchanged."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from compute_agent import concurrency, failpoints
from compute_agent.events.publisher import Publisher
from compute_agent.model import clock, errors
from compute_agent.model.event import EventType
from compute_agent.store import outbox
from compute_agent.store.database import Transaction
from tests.unit.properties.life import LIMIT_S, POINTS, Life, Lives
from tests.unit.properties.profile import explore
from tests.unit.properties.receiver import Receiver


def tell(tx: Transaction, text: str) -> int:
    return outbox.append(tx, EventType.HOST_PROBLEM, data={"problem": text})


class Outbox(RuleBasedStateMachine):
    """Events are written, one way or another, while everything around them fails."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch = tempfile.TemporaryDirectory(prefix="outbox-")
        self.receiver = Receiver()
        self.count = 0
        self.promised: set[str] = set()
        """What was told to the caller to be durable."""
        self.lives = Lives(Path(self._scratch.name), self._begun)

    def _begun(self, life: Life) -> None:
        self.publisher = Publisher(life.store, self.receiver.sink(life.outside))
        self.publisher.start()

    def _text(self) -> str:
        self.count += 1
        return f"{self.count}"

    def _write(self, texts: list[str]) -> None:
        """Write events and take note of those that count as told."""
        life = self.lives.now
        pending = [(text, life.store.submit(lambda tx, text=text: tell(tx, text))) for text in texts]
        for text, one in pending:
            assert one.ended.wait(LIMIT_S)
            if one.error is None and not life.dead:
                self.promised.add(text)
        self._bury()

    def _bury(self) -> None:
        if self.lives.now.dead:
            self.lives.next()

    @rule(count=st.integers(1, 12))
    def told(self, count: int) -> None:
        self._write([self._text() for _ in range(count)])

    @rule()
    def told_and_taken_back(self) -> None:
        def fail(tx: Transaction) -> None:
            tell(tx, "taken back")
            raise errors.InvalidState("no")

        assert self.lives.now.store.submit(fail).ended.wait(LIMIT_S)
        self._bury()

    @rule(count=st.integers(1, 3))
    def told_by_force_on_a_failing_disk(self, count: int) -> None:
        failpoints.arm(f"store.commit.inside=raise:DiskFull*{count}")
        text, life = self._text(), self.lives.now
        assert life.store.submit(lambda tx: tell(tx, text), owed=True).ended.wait(LIMIT_S)
        if not life.dead:
            self.promised.add(text)
        self._bury()

    @rule(count=st.integers(1, 3))
    def the_disk_fails(self, count: int) -> None:
        failpoints.arm(f"store.commit.before=raise:DiskFull*{count}")

    @rule(up=st.booleans())
    def the_broker_goes_or_comes(self, up: bool) -> None:
        self.receiver.up = up

    @rule(take=st.integers(1, 15), lose_answer=st.booleans())
    def the_broker_will_fail(self, take: int, lose_answer: bool) -> None:
        self.receiver.take, self.receiver.lose_answer = take, lose_answer

    @rule(keep=st.integers(0, 20))
    def what_was_sent_grows_old(self, keep: int) -> None:
        later = clock.timestamp(clock.after(60))
        self.lives.now.store.submit(lambda tx: outbox.age_out(tx, later, keep)).ended.wait(LIMIT_S)
        self._bury()

    @rule(point=st.sampled_from(POINTS))
    def the_agent_is_killed(self, point: str) -> None:
        self.lives.now.kill(point)
        self.lives.next()

    @rule(point=st.sampled_from(POINTS), passes=st.integers(0, 5))
    def the_agent_will_be_killed(self, point: str, passes: int) -> None:
        self.lives.now.doom(point, passes)

    @rule()
    def the_agent_is_restarted(self) -> None:
        self.publisher.stop(timeout=0.05)
        self.lives.next()

    @rule(turns=st.integers(1, 20))
    def time_passes(self, turns: int) -> None:
        for _ in range(turns):
            concurrency.sleep(0)

    @invariant()
    def what_came_is_in_order(self) -> None:
        assert not self.receiver.wrong

    def teardown(self) -> None:
        try:
            self._all_arrives()
        finally:
            self.lives.now.end()
            self._scratch.cleanup()

    def _all_arrives(self) -> None:
        failpoints.arm("")
        self.lives.next()
        self.receiver.up, self.receiver.take = True, 10**9
        last = self.lives.now.store.write(lambda tx: tell(tx, "the last"))
        waited = 0
        while len(self.receiver.events) < last:
            waited += 1
            assert waited < 1000 * LIMIT_S, f"{len(self.receiver.events)} of {last} events came"
            concurrency.sleep(0.001)
        assert not self.receiver.wrong
        texts = [event["data"]["problem"] for event in self.receiver.events]
        assert len(texts) == len(set(texts)) and "taken back" not in texts
        assert self.promised <= set(texts)
        assert [int(text) for text in texts[:-1]] == sorted(int(text) for text in texts[:-1])


def test_each_event_arrives_in_order_without_gaps_and_unchanged() -> None:
    run_state_machine_as_test(Outbox, settings=explore(examples=30, steps=30))

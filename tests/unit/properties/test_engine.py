# SPDX-License-Identifier: Apache-2.0
"""Whatever order things happen in, each operation is done once, ends once, and is told of without gaps.

The whole of the agent's middle runs here: journal, engine, outbox, publisher. Its verbs act in a world that
outlives it, and each of their acts can be held, made to fail, or be the last one before the agent is killed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from compute_agent.conf import CONF
from compute_agent.events.publisher import Publisher
from compute_agent.model.operation import Operation, OperationState
from compute_agent.model.states import InstanceState
from compute_agent.operations.engine import Engine
from compute_agent.store import host, instances
from tests.unit.properties.life import Life, Lives
from tests.unit.properties.machine import WHICH, Around
from tests.unit.properties.profile import explore
from tests.unit.properties.stage import Stage
from tests.unit.properties.world import PARTS, World

INSTANCES = 2
VERBS = ("spawn", "spawn", "pause", "unpause", "set_admin_password", "destroy")


class Middle(Around):
    """The agent's middle, with verbs of the test's own."""

    def set_up(self) -> None:
        self.world = World()
        self.stage = Stage(self.world)
        self.generation = 0

    def begin(self, life: Life) -> None:
        self.stage.life = life
        self.engine = Engine(life.store, self.stage.table(), None)
        self.publisher = Publisher(life.store, self.receiver.sink(life.outside))
        self.publisher.start()
        self.engine.recover()

    @initialize(made=st.integers(0, INSTANCES))
    def some_instances_are_there(self, made: int) -> None:
        for number in range(1, made + 1):
            self._ask("spawn", number, 2 * len(PARTS))
        self.deliver(INSTANCES)

    @rule(
        wanted=st.lists(st.tuples(st.sampled_from(VERBS), st.integers(1, INSTANCES)), min_size=1, max_size=4),
        acts=st.integers(0, 5),
    )
    def ask(self, wanted: list[tuple[str, int]], acts: int) -> None:
        """Ask for a few things, which get as far as `acts` acts of theirs."""
        for verb, number in wanted:
            self._ask(verb, number, acts)
        self.deliver(len(self.queue))
        self.settle()

    def _ask(self, verb: str, number: int, acts: int) -> None:
        instance_uuid = f"{number:08d}-0000-4000-8000-000000000000"
        values: dict[str, Any] = {"instance_uuid": instance_uuid}
        if verb == "spawn":
            self.generation += 1
            flavor = {"vcpus": 1, "memory_mb": 64}
            instance = {"uuid": instance_uuid, "flavor": flavor, "image": {"url": "file:///images/a"}}
            values = {"instance": instance | {"generation": self.generation}}
        elif verb == "set_admin_password":
            values["new_pass"] = "a secret"
        self.request(verb, values)
        for _ in range(acts):
            self.stage.give(self.asked[-1].operation_id)

    @rule(which=WHICH, times=st.integers(1, 6))
    def goes_on(self, which: int, times: int) -> None:
        if self.asked:
            for _ in range(times):
                self.stage.give(self.asked[-1 - which % len(self.asked)].operation_id)
            self.settle()

    @rule(which=WHICH)
    def fails(self, which: int) -> None:
        if self.asked:
            self.stage.give(self.asked[-1 - which % len(self.asked)].operation_id, well=False)
            self.settle()

    @invariant()
    def nothing_is_done_twice(self) -> None:
        assert not self.world.wrong

    def let_go(self) -> None:
        self.stage.open_all()

    def judge_effect(self, operation: Operation) -> None:
        done = {what for (one, what), n in self.world.done.items() if one == operation.operation_id and n}
        succeeded = operation.state is OperationState.SUCCEEDED
        if operation.verb == "spawn" and not _given_up(operation):
            assert done == ({f"make {part}" for part in PARTS} if succeeded else set())
        elif operation.verb == "set_admin_password":
            interrupted = operation.error is not None and operation.error.code == "Interrupted"
            assert interrupted or bool(done) is succeeded
        elif operation.attempts == 0:
            assert not done

    def judge(self) -> None:
        """What is on record is there, and what is there is on record."""
        self.nothing_is_done_twice()
        live = {record.uuid: record.state for record in self.lives.now.store.read(instances.every)}
        there = {uuid: set(guest.parts) for uuid, guest in self.world.guests.items() if guest.parts}
        assert there.keys() <= live.keys(), "something is on nobody's record"
        for uuid, state in live.items():
            unfit = state is InstanceState.ERROR or self.half_destroyed(uuid)
            assert unfit or there.get(uuid) == set(PARTS)


def _given_up(operation: Operation) -> bool:
    """Whether the agent was killed even while it undid an operation: then it only says what is left."""
    return operation.attempts > CONF.journal.max_attempts


def test_each_operation_is_done_once_and_told_without_gaps() -> None:
    run_state_machine_as_test(Middle, settings=explore(examples=80, steps=40))


def test_the_key_of_the_digests_outlives_every_life(tmp_path: Path) -> None:
    keys: list[bytes] = []
    lives = Lives(tmp_path, lambda life: keys.append(life.store.write(host.digest_key)))
    for _ in range(3):
        lives.now.kill("store.commit.after")
        lives.next()
    lives.now.end()
    assert len(keys) == 4 and len(set(keys)) == 1

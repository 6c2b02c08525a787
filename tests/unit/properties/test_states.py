# SPDX-License-Identifier: Apache-2.0
"""Whatever verbs, guests, people and crashes do, record, events and hypervisor agree in the end.

The whole agent without its broker runs here, on the fake driver, whose guests outlive it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

from greenlet import GreenletExit
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from compute_agent import failpoints
from compute_agent.conf import CONF
from compute_agent.events.publisher import Publisher
from compute_agent.manager import TABLE, reconcile
from compute_agent.manager.external_events import ExternalEvents
from compute_agent.manager.manager import Manager
from compute_agent.manager.noting import OFF
from compute_agent.manager.observer import Observer
from compute_agent.manager.virtapi import AgentVirtAPI
from compute_agent.model import errors
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.states import FOLLOWED, SETTLED, TRANSITIONS, InstanceState, PowerState
from compute_agent.store import instances
from compute_agent.virt.fake import FakeDriver
from tests.unit.properties.life import Life
from tests.unit.properties.machine import Around
from tests.unit.properties.profile import explore

INSTANCES = 2
VERBS: dict[str, dict[str, Any]] = {
    "spawn": {},
    "destroy": {},
    "reboot": {"reboot_type": "HARD"},
    "pause": {},
    "unpause": {},
    "suspend": {},
    "resume": {},
    "power_off": {"timeout": 0},
    "power_on": {},
    "rescue": {},
    "unrescue": {},
    "soft_delete": {},
    "restore": {},
    "set_admin_password": {"new_pass": "a secret"},
}
STEPS = ("check", "image", "disks", "define", "start", "stop")


class House(Around):
    """An agent on a fake host."""

    def set_up(self) -> None:
        self.generation = 0
        self.ledger = self.path / "ledger"
        CONF.set_override("ledger", str(self.ledger), group="fake")
        CONF.set_override("poll_interval", 0, group="fake")

    def begin(self, life: Life) -> None:
        events = ExternalEvents()
        self.driver = FakeDriver(AgentVirtAPI(life.store, events))
        manager = self.manager = Manager(self.driver, life.store, TABLE)
        manager.external_events = events
        manager.observer = Observer(manager)
        manager.observer.start()
        self.engine = manager.engine
        self.engine.hooks.before_again = manager.observer.before_again
        self.engine.hooks.before_end = manager.observer.before_end
        self.driver.init_host("node-1")
        effect = self.driver.hypervisor.effect

        def by_the_living(*args: Any, **parts: Any) -> None:
            life.outside()
            effect(*args, **parts)

        self.driver.hypervisor.effect = by_the_living  # type: ignore[method-assign]
        self.publisher = Publisher(life.store, self.receiver.sink(life.outside))
        self.publisher.start()
        reconcile.after_start(manager)
        self.engine.recover()

    @staticmethod
    def _uuid(number: int) -> str:
        return f"{number:08d}-0000-4000-8000-000000000000"

    # --- the scheduler ----------------------------------------------------------------------------------

    @initialize(made=st.integers(0, INSTANCES))
    def some_instances_are_there(self, made: int) -> None:
        for number in range(1, made + 1):
            self._ask("spawn", number)
        self.deliver(INSTANCES)
        self.settle()

    @rule(
        wanted=st.lists(
            st.tuples(st.sampled_from(sorted(VERBS)), st.integers(1, INSTANCES)), min_size=1, max_size=5
        ),
        settled=st.booleans(),
    )
    def ask(self, wanted: list[tuple[str, int]], settled: bool) -> None:
        for verb, number in wanted:
            self._ask(verb, number)
        self.deliver(len(self.queue))
        if settled:
            self.settle()

    def _ask(self, verb: str, number: int) -> None:
        values = {"instance_uuid": self._uuid(number), **VERBS[verb]}
        if verb == "spawn":
            self.generation += 1
            made = {"flavor": {"vcpus": 1, "memory_mb": 64}, "image": {"url": "file:///images/a"}}
            values = {"instance": made | {"uuid": self._uuid(number), "generation": self.generation}}
        self.request(verb, values)

    @rule(verb=st.sampled_from(("spawn", "reboot", "destroy")), step=st.sampled_from(STEPS))
    def a_step_will_fail(self, verb: str, step: str) -> None:
        failpoints.arm(f"{verb}.{step}.after=raise:HypervisorError*1")

    # --- guests, and people at the hypervisor -------------------------------------------------------------

    @rule(
        what=st.sampled_from(("stop", "crash", "pause", "unpause", "start")),
        number=st.integers(1, INSTANCES),
        origin=st.sampled_from(("guest", "host")),
    )
    def happens_to_a_guest(self, what: str, number: int, origin: str) -> None:
        with contextlib.suppress(GreenletExit, errors.ComputeError):
            getattr(self.driver.hypervisor, what)(self._uuid(number), origin=origin)
        self._bury()

    @rule(power=st.sampled_from(("shutdown", "crashed", "running")), number=st.integers(1, INSTANCES))
    def happens_while_no_agent_is_there(self, power: str, number: int) -> None:
        self.meanwhile = json.dumps({"guest": self._uuid(number), "power": power}) + "\n"
        self.lives.now.kill("store.commit.before")
        self._bury()

    meanwhile = ""

    def away(self) -> None:
        if self.meanwhile:
            with self.ledger.open("a") as ledger:
                ledger.write(self.meanwhile)
            self.meanwhile = ""

    # --- the judges ---------------------------------------------------------------------------------------

    def let_go(self) -> None:
        self.settle()

    def judge(self) -> None:
        records = {record.uuid: record for record in self.lives.now.store.read(instances.every)}
        world = self.driver.hypervisor.world
        assert world.domains.keys() <= records.keys(), "a guest is on nobody's record"
        assert world.directories.keys() <= records.keys(), "files are on nobody's record"
        for record in records.values():
            self._judge_record(record)
        for number in range(1, INSTANCES + 1):
            self._judge_history(self._uuid(number))
        self._judge_makers()

    def _judge_record(self, record: InstanceRecord) -> None:
        domain = self.driver.hypervisor.find(record.uuid)
        if domain is None:
            assert record.state is InstanceState.ERROR or self.half_destroyed(record.uuid), record
            return
        same = record.power_state is domain.power or {record.power_state, domain.power} <= OFF
        assert same, f"{record.power_state.name} on record, {domain.power.name} at the hypervisor"
        if record.state in SETTLED:
            assert record.state is FOLLOWED[record.power_state], record

    def _judge_history(self, uuid: str) -> None:
        """The record's changes follow the table, each with the next revision."""
        told = [event for event in self.receiver.events if event["instance_uuid"] == uuid]
        records = [
            e["data"]["instance"] for e in told if e["type"] in ("instance.updated", "instance.removed")
        ]
        revisions = [event["revision"] for event in told if event["revision"] is not None]
        removed = [event["revision"] for event in told if event["type"] == "instance.removed"]
        if not removed:  # what never came to be is struck, and begins anew
            assert revisions == sorted(revisions)
        for before, after in itertools.pairwise(records):
            state = InstanceState(before["state"])
            allowed = TRANSITIONS[state] | {state, InstanceState.BUILDING}
            assert InstanceState(after["state"]) in allowed, (before, after)

    def _judge_makers(self) -> None:
        """Nobody has defined a guest that was there."""
        defined: set[str] = set()
        for line in self.ledger.read_text().splitlines():
            what = json.loads(line)
            if what.get("effect") == "define":
                assert what["guest"] not in defined, what
                defined.add(what["guest"])
            elif what.get("effect") == "undefine":
                defined.remove(what["guest"])

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            for option in ("ledger", "poll_interval"):
                CONF.clear_override(option, group="fake")


def test_record_events_and_hypervisor_agree_in_the_end() -> None:
    run_state_machine_as_test(House, settings=explore(examples=40, steps=30))


def test_every_power_state_of_a_guest_has_a_state_that_follows_it() -> None:
    assert FOLLOWED.keys() == set(PowerState) - {PowerState.NOSTATE}

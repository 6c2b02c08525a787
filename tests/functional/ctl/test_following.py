# SPDX-License-Identifier: Apache-2.0
"""`compute-agentctl` where time passes: events, operations, cancelling, giving up."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PARTS
from tests.functional.ctl.conftest import Ctl, Running
from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
HANGS = "suspend=hang"
"""Whoever suspends a guest of this agent waits for ever."""


class Watching(Ctl):
    """A person who types the whole command line, and what the agent tells others meanwhile."""

    def __init__(self, agent: Agent, receiver: Receiver, sender: Sender, broker: Broker) -> None:
        self.agent = agent
        self.receiver = receiver
        self.sender = sender
        self.where = ("--host", agent.host, "--transport-url", broker.transport_url)
        super().__init__(*self.where)

    def spawn(self) -> str:
        instance = describe(IMAGE)
        self.receiver.succeeded(self.sender.cast("spawn", instance=instance))
        return str(instance["uuid"])

    def hanging(self) -> tuple[str, str]:
        """An operation that goes on until it is cancelled; its id and its instance."""
        instance = self.spawn()
        operation = self.sender.cast("suspend", instance_uuid=instance)
        self.receiver.wait_for(type="operation.started", operation_id=operation)
        return operation, instance


@pytest.fixture(scope="module")
def ctl(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watching]:
    """An agent whose guests are not real, and outlive it."""
    shown = request.config.stash[PARTS]
    fake = {"faults": HANGS, "ledger": tmp_path_factory.mktemp("fake") / "ledger"}
    with (
        Receiver(broker.transport_url) as receiver,
        Agent(broker, sections={"fake": fake}) as agent,
        Sender(broker.transport_url, agent.host) as sender,
    ):
        shown.append(agent)
        yield Watching(agent, receiver, sender, broker)
        shown.remove(agent)


# --- events ------------------------------------------------------------------------------------------


def test_events_since_a_moment_are_those_that_came_after_it(ctl: Watching) -> None:
    since = ctl.sender.call("ping")["as_of"]["seq"]
    instance = ctl.spawn()
    heard = [
        event for event in ctl.receiver.distinct() if event["host"] == ctl.agent.host and event["seq"] > since
    ]
    shown = ctl("--format", "json", "events", "--since", str(since))
    assert shown.status == 0
    assert [json.loads(line) for line in shown.out.splitlines()] == heard
    plain = ctl("events", "--since", str(since), "--type", "operation.*", "--instance", instance)
    kinds = [line.split()[2] for line in plain.out.splitlines()]
    assert kinds == ["operation.accepted", "operation.started", "operation.succeeded"]


def test_a_gap_is_told(ctl: Watching) -> None:
    ctl.spawn()
    shown = ctl("events", "--since", "0", "--epoch", str(uuid.uuid4()))
    assert shown.status == 0
    first, *rest = shown.out.splitlines()
    assert first.startswith("--- gap (epoch)")
    assert rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_events_are_followed_until_a_signal_and_taken_from_nobody(
    ctl: Watching, running: Callable[..., Running], number: signal.Signals
) -> None:
    follower = running(*ctl.where, "events", "--follow", "--since", "0", "--interval", "0.1")
    follower.wait_for(ctl.spawn())
    instance = ctl.spawn()
    told = follower.wait_for(f"instance.updated  instance={instance}")
    assert instance in told
    ended = follower.end(number)
    assert ended == (0 if number == signal.SIGINT else -number)
    assert "Traceback" not in follower.err
    assert ctl.receiver.of_instance(instance)


def test_a_follower_survives_a_restart_of_the_agent(ctl: Watching, running: Callable[..., Running]) -> None:
    follower = running(
        *ctl.where, "--timeout", "1", "events", "--follow", "--since", "0", "--interval", "0.1"
    )
    follower.wait_for(ctl.spawn())
    ctl.agent.stop()
    follower.wait_for("trying again")
    ctl.agent.start()
    follower.wait_for("the agent answers again")
    instance = ctl.spawn()
    follower.wait_for(instance)
    assert follower.end() == 0


# --- operations --------------------------------------------------------------------------------------


def test_operations_are_listed_and_shown(ctl: Watching) -> None:
    instance = ctl.spawn()
    listed = ctl.json("operations", "list", "--instance", instance)["operations"]
    assert [(one["verb"], one["state"]) for one in listed] == [("spawn", "succeeded")]
    shown = ctl.json("operations", "show", listed[0]["operation_id"])
    assert shown["timing"]["steps"]
    assert ctl.json("operations", "list", "--verb", "dance")["operations"] == []
    plain = ctl("operations", "list", "--state", "succeeded", "--limit", "1")
    assert listed[0]["operation_id"] in plain.out


def test_an_operation_that_is_cancelled_meanwhile_ends_with_status_3(
    ctl: Watching, running: Callable[..., Running]
) -> None:
    instance = ctl.spawn()
    waiting = running(*ctl.where, "suspend", instance, "--wait")
    started = ctl.receiver.wait_for(
        type="operation.started", instance_uuid=instance, predicate=_is("suspend")
    )
    waiting.wait_for("running")
    watching = running(*ctl.where, "operations", "watch", started["operation_id"])
    watching.wait_for("running")
    assert ctl("operations", "cancel", started["operation_id"], "--wait").status == 0
    assert (waiting.wait(), watching.wait()) == (3, 3)
    assert "cancelled" in waiting.out


def _is(verb: str) -> Callable[[dict[str, Any]], bool]:
    return lambda event: bool(event["data"].get("verb") == verb)


def test_who_waits_no_longer_ends_with_status_4_and_the_operation_goes_on(ctl: Watching) -> None:
    instance = ctl.spawn()
    done = ctl("suspend", instance, "--wait-timeout", "1")
    assert done.status == 4
    assert "  hint: " in done.err
    (live,) = ctl.json("operations", "list", "--instance", instance, "--state", "running")["operations"]
    assert ctl("operations", "watch", live["operation_id"], "--wait-timeout", "0.5").status == 4
    assert ctl("cancel-operation", live["operation_id"], "--wait").status == 0
    assert ctl.receiver.end_of(live["operation_id"])["type"] == "operation.cancelled"


def test_an_operation_past_its_deadline_ends_with_status_4(ctl: Watching) -> None:
    instance = ctl.spawn()
    done = ctl("suspend", instance, "--timeout-s", "0.5", "--wait")
    assert done.status == 4
    assert "Timeout: " in done.err


def test_what_is_over_can_not_be_cancelled(ctl: Watching) -> None:
    instance = ctl.spawn()
    (ended,) = ctl.json("operations", "list", "--instance", instance)["operations"]
    late = ctl("operations", "cancel", ended["operation_id"], "--wait")
    assert late.status == 1
    assert "TooLate: " in late.err


def test_an_operation_can_be_cancelled_before_it_comes(ctl: Watching) -> None:
    instance, operation = ctl.spawn(), str(uuid.uuid4())
    assert ctl("operations", "cancel", operation, "--wait").status == 0
    assert ctl("pause", instance, "--operation-id", operation, "--wait").status == 3
    assert ctl.json("get-instance", instance)["state"] == "active"


def test_all_operations_are_watched_until_ctrl_c(ctl: Watching, running: Callable[..., Running]) -> None:
    watcher = running(*ctl.where, "operations", "watch")
    instance = ctl.spawn()  # may come before the watcher looks
    operation = ctl.sender.cast("pause", instance_uuid=instance)
    ctl.receiver.succeeded(operation)
    while operation not in watcher.out:
        operation = ctl.sender.cast("reboot", instance_uuid=instance, reboot_type="HARD")
        ctl.receiver.succeeded(operation)
        assert ctl.receiver.mark() < 2000, "the watcher shows nothing"
    assert watcher.end() == 0
    assert "host.report" not in watcher.out


def test_top_shows_what_is_under_way(ctl: Watching) -> None:
    operation, instance = ctl.hanging()
    shown = ctl("top", "--once")
    assert shown.status == 0
    assert operation in shown.out
    assert instance in shown.out
    assert "suspend" in shown.out
    assert ctl("operations", "cancel", operation, "--wait").status == 0


def test_nobody_answers_while_the_agent_is_away(ctl: Watching) -> None:
    instance = ctl.spawn()
    ctl.agent.stop()
    done = ctl("--timeout", "1", "pause", instance)
    assert done.status == 1
    assert done.err.startswith("NoAnswer: ")
    assert "  hint: " in done.err
    operation = ctl("--format", "json", "pause", instance, "--cast").json["operation_id"]
    ctl.agent.start()
    ctl.receiver.succeeded(operation)
    assert ctl.json("get-instance", instance)["state"] == "paused"

# SPDX-License-Identifier: Apache-2.0
"""The agent as its service manager sees it: READY, STATUS, WATCHDOG, signals, one per state directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.instance import describe
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
WATCHDOG_S = 1.0


def fake(tmp_path: Path, *faults: str) -> dict[str, dict[str, Any]]:
    """A fake hypervisor whose guests outlive the agent."""
    options: dict[str, Any] = {"ledger": tmp_path / "ledger"}
    return {"fake": options | ({"faults": faults} if faults else {})}


def consumers(broker: Broker, agent: Agent) -> int:
    """How many consume the agent's queue, as the broker says."""
    listed = broker.ctl("list_consumers", "-q", "--no-table-headers", "queue_name")
    return listed.split().count(f"compute.{agent.host}")


# --- READY -------------------------------------------------------------------------------------------


def test_ready_is_told_when_it_consumes_and_once(broker: Broker, agent: Callable[..., Agent]) -> None:
    one = agent()
    assert consumers(broker, one) == 1
    names = [name for name, _ in one.notify.messages]
    before = names[: names.index("READY")]
    assert before.count("STATUS") >= 2
    assert "WATCHDOG" not in before
    wait_until(lambda: one.notify.values("WATCHDOG"), 10, "a sign of life")
    assert len(one.notify.values("READY")) == 1
    assert one.notify.values("STOPPING") == []


def test_without_a_broker_it_is_not_ready_says_so_and_can_be_stopped(
    broker: Broker, agent: Callable[..., Agent]
) -> None:
    serving, coming = agent(), agent(start=False)
    broker.stop()
    coming.start(wait=False)
    coming.notify.wait_status("asking who serves the queue", timeout=20)
    assert coming.stop(timeout=30).code == 0
    assert not coming.notify.ready
    coming.start(wait=False)
    coming.notify.wait_status("asking who serves the queue", timeout=20)
    serving.notify.wait_status("broker away", timeout=20)
    assert coming.running and not coming.notify.ready
    broker.start()
    coming.wait_ready()
    at = len(serving.notify.values("STATUS"))
    wait_until(
        lambda: any("away" not in s for s in serving.notify.values("STATUS")[at:]), 20, "a good status"
    )
    assert (consumers(broker, coming), consumers(broker, serving)) == (1, 1)


def test_signs_of_life_come_twice_as_often_as_asked_for(agent: Callable[..., Agent]) -> None:
    one = agent(environment={"WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))})
    wait_until(lambda: len(one.notify.values("WATCHDOG")) >= 4, 4 * WATCHDOG_S, "four signs of life")
    one.suspend()
    seen = len(one.notify.values("WATCHDOG"))
    one.resume()
    wait_until(lambda: len(one.notify.values("WATCHDOG")) > seen, 4 * WATCHDOG_S, "another sign of life")


# --- SIGTERM -----------------------------------------------------------------------------------------


def test_an_idle_agent_ends_on_sigterm(broker: Broker, agent: Callable[..., Agent]) -> None:
    one = agent()
    assert one.stop(timeout=20).code == 0
    assert one.notify.values("STOPPING") == ["1"]
    assert consumers(broker, one) == 0
    assert "Traceback" not in one.log_text()


def test_sigterm_lets_a_running_spawn_end_and_takes_nothing_new(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    one = agent(sections=fake(tmp_path, "spawn.start=slow:2"))
    to = sender(one)
    running = to.cast("spawn", instance=describe(IMAGE))
    receiver.wait_for(type="operation.started", operation_id=running)
    one.process.signal(15)
    wait_until(lambda: one.notify.values("STOPPING"), 10, "STOPPING=1")
    later = to.cast("spawn", instance=describe(IMAGE))
    assert one.wait_end() == 0
    receiver.succeeded(running)
    assert receiver.of_operation(later) == []
    one.start()
    receiver.succeeded(later)
    receiver.assert_gapless()


def test_what_does_not_end_in_time_goes_on_after_the_next_start(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    one = agent(sections=fake(tmp_path, "spawn.start=hang*1") | {"DEFAULT": {"graceful_shutdown_timeout": 6}})
    instance = describe(IMAGE)
    operation = sender(one).cast("spawn", instance=instance)
    receiver.wait_for(type="operation.started", operation_id=operation)
    assert one.stop(timeout=20).code == 0
    one.configure({"fake": {"faults": None}})
    one.start()
    receiver.succeeded(operation)
    assert sender(one).call("get_instance", instance_uuid=instance["uuid"])["state"] == "active"
    receiver.assert_gapless()


def test_however_short_its_time_it_ends_well_and_says_what_stays_in_the_journal(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    faults = ("spawn.start=hang", "cleanup_host=hang")
    one = agent(sections=fake(tmp_path, *faults) | {"DEFAULT": {"graceful_shutdown_timeout": 1}})
    operation = sender(one).cast("spawn", instance=describe(IMAGE))
    receiver.wait_for(type="operation.started", operation_id=operation)
    assert one.stop(timeout=20).code == 0
    assert "operations stay in the journal: 1 running" in one.log_text()


def test_sigterm_ends_a_start_that_is_under_way(agent: Callable[..., Agent], tmp_path: Path) -> None:
    one = agent(sections=fake(tmp_path, "init_host=slow:3"), start=False)
    one.start(wait=False)
    one.notify.wait_status("reaching the hypervisor", timeout=20)
    assert one.stop(timeout=20).code == 0
    assert "Traceback" not in one.log_text()
    assert not one.notify.ready
    assert not [status for status in one.notify.values("STATUS") if "comparing" in status]


# --- SIGHUP ------------------------------------------------------------------------------------------


def test_a_wrong_value_on_sighup_leaves_it_serving_with_the_old_one(
    receiver: Receiver, agent: Callable[..., Agent], sender: Callable[[Agent], Sender], tmp_path: Path
) -> None:
    one = agent(sections=fake(tmp_path) | {"DEFAULT": {"max_concurrent_builds": 2}})
    one.configure({"DEFAULT": {"max_concurrent_builds": 0}})
    one.reload()
    wait_until(lambda: "max_concurrent_builds" in one.log_text(), 10, "a word about it")
    receiver.succeeded(sender(one).cast("spawn", instance=describe(IMAGE)))
    one.configure({"DEFAULT": {"max_concurrent_builds": 3}})
    one.reload()
    one.notify.wait_status("configuration read again")
    receiver.succeeded(sender(one).cast("spawn", instance=describe(IMAGE)))


# --- one per state directory -------------------------------------------------------------------------


def test_a_second_agent_on_the_same_state_directory_is_refused(
    agent: Callable[..., Agent], sender: Callable[[Agent], Sender]
) -> None:
    one = agent()
    other = agent(host=one.host, start=False)
    other.configure({"DEFAULT": {"state_path": one.state_path}})
    other.start(wait=False)
    assert other.wait_end() == 78
    assert not other.notify.ready
    assert str(one.state_path) in other.log_text()
    assert sender(one).call("ping")["pong"]
    one.kill()
    other.start()
    assert sender(other).call("ping")["pong"]

# SPDX-License-Identifier: Apache-2.0
"""libvirtd killed, hung, and a guest's monitor hung: the agent goes on and recovers without a restart."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.functional.serving import Served
from tests.rig.hypervisor import Hypervisor

TYPED = ("HypervisorUnavailable", "Timeout")
LONG_S = 300.0


@pytest.mark.parametrize(
    "kill", [True, pytest.param(False, marks=pytest.mark.long)], ids=["killed", "stopped"]
)
def test_libvirtd_is_started_again_in_the_middle_of_spawns(kill: bool, alone: Served) -> None:
    """Spawns of a row: the outage meets some while they define, some while they start, some that wait."""
    pid = alone.agent.pid
    instances = [alone.describe() for _ in range(8)]
    operations = [alone.sender.cast("spawn", instance=instance, timeout_s=LONG_S) for instance in instances]
    alone.receiver.wait_for(type="instance.lifecycle.started", timeout=60)
    alone.hypervisor.restart(kill=kill)
    for operation in operations:
        alone.receiver.succeeded(operation, timeout=LONG_S)
    for instance in instances:
        assert alone.guest(instance["uuid"]).state == "running"
        assert alone.lifecycle(instance["uuid"]) == ["started"]
    assert not alone.sender.call("list_orphans")["orphans"]
    assert alone.agent.pid == pid
    alone.receiver.assert_gapless()


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.long)])
def test_everything_that_needs_no_libvirt_goes_on_while_it_hangs(seconds: int, alone: Served) -> None:
    to, pid = alone.sender, alone.agent.pid
    patient, hasty = alone.spawned(2)
    alone.hypervisor.suspend()
    hangs_until = time.monotonic() + seconds
    waits = to.cast("pause", instance_uuid=patient, timeout_s=LONG_S)
    dies = to.cast("suspend", instance_uuid=hasty, timeout_s=3)
    rounds = 0
    while rounds < 3 or time.monotonic() < hangs_until:
        since = alone.receiver.mark()
        assert to.call("ping", wait_s=30)["as_of"]["host"] == alone.agent.host
        assert alone.record(patient)["state"] == "active"
        assert to.call("get_operation", operation_id=waits)["state"] == "running"
        told = to.call("get_events", epoch=to.call("ping")["as_of"]["epoch"], since=0)
        assert told["events"]
        journalled = to.cast("update_instance", instance_uuid=patient, metadata={"round": str(rounds)})
        alone.receiver.wait_for(type="operation.accepted", operation_id=journalled, since=since, timeout=30)
        alone.receiver.succeeded(to.cast("cancel_operation", target=journalled), timeout=30)
        alone.receiver.wait_for(type="operation.cancelled", operation_id=journalled, timeout=30)
        alone.receiver.wait_for(type="host.report", since=since, timeout=30)
        rounds += 1
    assert alone.receiver.failed(dies, timeout=30)["data"]["error"]["code"] in TYPED
    assert "operation.succeeded" not in alone.receiver.types_of(waits)
    alone.hypervisor.resume()
    alone.receiver.succeeded(waits, timeout=LONG_S)
    assert alone.guest(patient).state == "paused"
    # Its lane is open again, and what was given up did not happen after all.
    alone.receiver.succeeded(to.cast("pause", instance_uuid=hasty), timeout=LONG_S)
    assert alone.lifecycle(hasty) == ["started", "paused"]
    assert not to.call("ping")["hypervisor_away"]
    assert alone.agent.pid == pid
    alone.receiver.assert_gapless()


@pytest.fixture
def hang(hypervisor: Hypervisor) -> Iterator[Callable[[str], int]]:
    """Let a guest's QEMU hang, its monitor too; it goes on after the test."""
    pids: list[int] = []

    def stop(uuid: str) -> int:
        pid = hypervisor.qemu_pid(uuid)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)
        return pid

    yield stop
    for pid in pids:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGCONT)


def test_one_hung_monitor_holds_up_nobody_else(alone: Served, hang: Callable[[str], int]) -> None:
    to = alone.sender
    hung, *others = alone.spawned(4)
    pid = hang(hung)
    waits = to.cast("pause", instance_uuid=hung, timeout_s=LONG_S)
    alone.receiver.wait_for(type="operation.started", operation_id=waits, timeout=30)
    for verb in ("pause", "unpause", "suspend", "resume"):
        for operation in [to.cast(verb, instance_uuid=uuid, timeout_s=LONG_S) for uuid in others]:
            alone.receiver.succeeded(operation, timeout=LONG_S)
    (fresh,) = alone.spawned(1)
    assert alone.guest(fresh).state == "running"
    assert to.call("get_operation", operation_id=waits)["state"] == "running"
    for uuid in (hung, *others):
        assert to.call("get_info", instance_uuid=uuid)
    os.kill(pid, signal.SIGCONT)
    alone.receiver.succeeded(waits, timeout=60)
    assert alone.guest(hung).state == "paused"
    alone.receiver.assert_gapless()


@pytest.mark.long
def test_a_verb_on_a_hung_monitor_ends_at_its_deadline_and_the_guest_can_be_taken_away(
    alone: Served, hang: Callable[[str], int]
) -> None:
    (uuid,) = alone.spawned(1)
    hang(uuid)
    operation = alone.sender.cast("pause", instance_uuid=uuid, timeout_s=2)
    assert alone.receiver.failed(operation)["data"]["error"]["code"] == "Timeout"
    alone.receiver.succeeded(alone.sender.cast("destroy", instance_uuid=uuid), timeout=120)
    assert alone.guest(uuid).state == "absent"
    assert alone.guest(uuid).qemu_pid is None
    alone.receiver.assert_gapless()

# SPDX-License-Identifier: Apache-2.0
"""libvirtd killed, hung, and a guest's monitor hung: the agent goes on and recovers without a restart."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

TYPED = ("HypervisorUnavailable", "Timeout")
LONG_S = 300.0


def lifecycle(receiver: Receiver, uuid: str) -> list[str]:
    """The lifecycle events of an instance."""
    kinds = [
        event["type"].rpartition(".")[2]
        for event in receiver.of_instance(uuid)
        if "lifecycle" in event["type"]
    ]
    return kinds


def spawned(receiver: Receiver, to: Sender, images: Images, number: int) -> list[str]:
    instances = [describe(images.qcow2("faults", POLITE)) for _ in range(number)]
    for operation in [to.cast("spawn", instance=instance) for instance in instances]:
        receiver.succeeded(operation, timeout=120)
    return [instance["uuid"] for instance in instances]


@pytest.mark.parametrize(
    "kill", [True, pytest.param(False, marks=pytest.mark.long)], ids=["killed", "stopped"]
)
def test_libvirtd_is_started_again_in_the_middle_of_spawns(
    kill: bool,
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    hypervisor: Hypervisor,
    guest: Callable[[str], Guest],
) -> None:
    """Spawns of a row: the outage meets some while they define, some while they start, some that wait."""
    pid = qemu_agent.pid
    instances = [describe(images.qcow2("faults", POLITE)) for _ in range(8)]
    operations = [to_qemu_agent.cast("spawn", instance=instance, timeout_s=LONG_S) for instance in instances]
    receiver.wait_for(type="instance.lifecycle.started", timeout=60)
    hypervisor.restart(kill=kill)
    for operation in operations:
        receiver.succeeded(operation, timeout=LONG_S)
    for instance in instances:
        assert guest(instance["uuid"]).state == "running"
        assert lifecycle(receiver, instance["uuid"]) == ["started"]
    assert not to_qemu_agent.call("list_orphans")["orphans"]
    assert qemu_agent.pid == pid
    receiver.assert_gapless()


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.long)])
def test_everything_that_needs_no_libvirt_goes_on_while_it_hangs(
    seconds: int,
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    hypervisor: Hypervisor,
    guest: Callable[[str], Guest],
) -> None:
    to, pid = to_qemu_agent, qemu_agent.pid
    patient, hasty = spawned(receiver, to, images, 2)
    hypervisor.suspend()
    hangs_until = time.monotonic() + seconds
    waits = to.cast("pause", instance_uuid=patient, timeout_s=LONG_S)
    dies = to.cast("suspend", instance_uuid=hasty, timeout_s=3)
    rounds = 0
    while rounds < 3 or time.monotonic() < hangs_until:
        since = receiver.mark()
        assert to.call("ping", wait_s=30)["as_of"]["host"] == qemu_agent.host
        assert to.call("get_instance", instance_uuid=patient)["state"] == "active"
        assert to.call("get_operation", operation_id=waits)["state"] == "running"
        told = to.call("get_events", epoch=to.call("ping")["as_of"]["epoch"], since=0)
        assert told["events"]
        journalled = to.cast("update_instance", instance_uuid=patient, metadata={"round": str(rounds)})
        receiver.wait_for(type="operation.accepted", operation_id=journalled, since=since, timeout=30)
        receiver.succeeded(to.cast("cancel_operation", target=journalled), timeout=30)
        receiver.wait_for(type="operation.cancelled", operation_id=journalled, timeout=30)
        receiver.wait_for(type="host.report", since=since, timeout=30)
        rounds += 1
    assert receiver.failed(dies, timeout=30)["data"]["error"]["code"] in TYPED
    assert not [event for event in receiver.of_operation(waits) if event["type"] == "operation.succeeded"]
    hypervisor.resume()
    receiver.succeeded(waits, timeout=LONG_S)
    assert guest(patient).state == "paused"
    # Its lane is open again, and what was given up did not happen after all.
    receiver.succeeded(to.cast("pause", instance_uuid=hasty), timeout=LONG_S)
    assert lifecycle(receiver, hasty) == ["started", "paused"]
    assert not to.call("ping")["hypervisor_away"]
    assert qemu_agent.pid == pid
    receiver.assert_gapless()


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


def test_one_hung_monitor_holds_up_nobody_else(
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    guest: Callable[[str], Guest],
    hang: Callable[[str], int],
) -> None:
    to = to_qemu_agent
    hung, *others = spawned(receiver, to, images, 4)
    pid = hang(hung)
    waits = to.cast("pause", instance_uuid=hung, timeout_s=LONG_S)
    receiver.wait_for(type="operation.started", operation_id=waits, timeout=30)
    for verb in ("pause", "unpause", "suspend", "resume"):
        for operation in [to.cast(verb, instance_uuid=uuid, timeout_s=LONG_S) for uuid in others]:
            receiver.succeeded(operation, timeout=LONG_S)
    (fresh,) = spawned(receiver, to, images, 1)
    assert guest(fresh).state == "running"
    assert to.call("get_operation", operation_id=waits)["state"] == "running"
    for uuid in (hung, *others):
        assert to.call("get_info", instance_uuid=uuid)
    os.kill(pid, signal.SIGCONT)
    receiver.succeeded(waits, timeout=60)
    assert guest(hung).state == "paused"
    receiver.assert_gapless()


@pytest.mark.long
def test_a_verb_on_a_hung_monitor_ends_at_its_deadline_and_the_guest_can_be_taken_away(
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    guest: Callable[[str], Guest],
    hang: Callable[[str], int],
) -> None:
    (uuid,) = spawned(receiver, to_qemu_agent, images, 1)
    hang(uuid)
    operation = to_qemu_agent.cast("pause", instance_uuid=uuid, timeout_s=2)
    assert receiver.failed(operation)["data"]["error"]["code"] == "Timeout"
    receiver.succeeded(to_qemu_agent.cast("destroy", instance_uuid=uuid), timeout=120)
    assert guest(uuid).state == "absent"
    assert guest(uuid).qemu_pid is None
    receiver.assert_gapless()

# SPDX-License-Identifier: Apache-2.0
"""Real guests while the broker, the hypervisor's service or the agent is away."""

import time
from collections.abc import Callable

from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.broker import Broker
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

OUTAGE_S = 30.0
"""How long the broker is away: long enough for every back-off to reach its longest pause."""


def spawn(receiver: Receiver, to: Sender, images: Images, number: int = 1) -> list[str]:
    image = images.qcow2("outage", POLITE)
    instances = [describe(image) for _ in range(number)]
    for operation in [to.cast("spawn", instance=instance) for instance in instances]:
        receiver.succeeded(operation, timeout=120)
    return [instance["uuid"] for instance in instances]


def test_guests_do_not_notice_a_restart_of_the_agent(
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    hypervisor: Hypervisor,
    guest: Callable[[str], Guest],
) -> None:
    kept, switched_off, paused = spawn(receiver, to_qemu_agent, images, 3)
    before = {uuid: guest(uuid).qemu_pid for uuid in (kept, paused)}
    told = to_qemu_agent.call("ping")["as_of"]["seq"]
    qemu_agent.kill()
    hypervisor.kill_guest(switched_off)
    with guest(paused).domain() as domain:
        domain.suspend()
    since = receiver.mark()
    qemu_agent.start()
    ends = ("instance.lifecycle.stopped", "instance.lifecycle.crashed")
    stopped = receiver.wait_for(
        lambda event: event["type"] in ends, since=since, instance_uuid=switched_off, timeout=20
    )
    assert stopped["data"]["observed"] == "reconciled"
    held = receiver.wait_for(since=since, instance_uuid=paused, type="instance.lifecycle.paused")
    assert held["data"]["observed"] == "reconciled"
    assert {uuid: guest(uuid).qemu_pid for uuid in (kept, paused)} == before
    states = {uuid: to_qemu_agent.call("get_instance", instance_uuid=uuid)["state"] for uuid in before}
    assert states == {kept: "active", paused: "paused"}
    assert not [event for event in receiver.of_instance(kept) if event["seq"] > told]
    receiver.assert_gapless()


def test_verbs_wait_for_libvirtd_and_the_host_says_so(
    receiver: Receiver,
    qemu_agent: Agent,
    to_qemu_agent: Sender,
    images: Images,
    hypervisor: Hypervisor,
    guest: Callable[[str], Guest],
) -> None:
    (uuid,) = spawn(receiver, to_qemu_agent, images)
    pid = guest(uuid).qemu_pid
    hypervisor.kill()
    away = receiver.wait_for(type="host.disabled", timeout=30)
    assert away["data"]["owner"] == "hypervisor"
    assert to_qemu_agent.call("ping")["hypervisor_away"]
    operation = to_qemu_agent.cast("pause", instance_uuid=uuid)
    receiver.wait_for(type="operation.started", operation_id=operation)
    hypervisor.restart()
    receiver.succeeded(operation, timeout=60)
    receiver.wait_for(type="host.enabled", timeout=30)
    assert guest(uuid).qemu_pid == pid
    assert guest(uuid).state == "paused"
    receiver.assert_gapless()


def test_a_verb_past_its_deadline_says_that_the_hypervisor_is_away(
    receiver: Receiver, qemu_agent: Agent, to_qemu_agent: Sender, images: Images, hypervisor: Hypervisor
) -> None:
    (uuid,) = spawn(receiver, to_qemu_agent, images)
    hypervisor.kill()
    receiver.wait_for(type="host.disabled", timeout=30)
    operation = to_qemu_agent.cast("pause", instance_uuid=uuid, timeout_s=1)
    error = receiver.failed(operation)["data"]["error"]
    assert error["code"] in ("HypervisorUnavailable", "Timeout")
    assert to_qemu_agent.call("get_instance", instance_uuid=uuid)["state"] == "active"
    hypervisor.restart()
    receiver.wait_for(type="host.enabled", timeout=30)
    receiver.succeeded(to_qemu_agent.cast("pause", instance_uuid=uuid))


def test_the_agent_starts_while_the_hypervisor_is_away(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    images: Images,
    fresh_hypervisor: Hypervisor,
) -> None:
    one = agent(hypervisor=True)
    (uuid,) = spawn(receiver, sender(one), images)
    one.stop()
    fresh_hypervisor.kill()
    one.start()
    assert sender(one).call("ping")["hypervisor_away"]
    assert sender(one).call("get_instance", instance_uuid=uuid)["state"] == "active"
    fresh_hypervisor.restart()
    receiver.wait_for(type="host.enabled", timeout=30)
    receiver.succeeded(sender(one).cast("destroy", instance_uuid=uuid))


def test_spawns_go_on_while_the_broker_is_stopped_and_every_event_comes_after(
    receiver: Receiver,
    broker: Broker,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    images: Images,
    hypervisor: Hypervisor,
) -> None:
    one = agent(hypervisor=True, sections={"DEFAULT": {"max_concurrent_builds": 4}})
    to = sender(one)
    image = images.qcow2("outage", POLITE)
    instances = [describe(image) for _ in range(20)]
    operations = [to.cast("spawn", instance=instance) for instance in instances]
    receiver.wait_for(type="operation.succeeded", timeout=60)
    broker.settle()
    broker.stop()
    stopped_at = time.monotonic()
    wait_until(
        lambda: len([uuid for uuid in hypervisor.domains() if uuid in {i["uuid"] for i in instances}]) == 20,
        timeout=90,
    )
    wait_until(
        lambda: time.monotonic() - stopped_at >= OUTAGE_S, timeout=OUTAGE_S + 5, what="the outage's length"
    )
    broker.start()
    for operation in operations:
        receiver.succeeded(operation, timeout=90)
    receiver.assert_gapless()


def test_a_killed_guest_leaves_its_last_words(
    receiver: Receiver,
    to_qemu_agent: Sender,
    images: Images,
    hypervisor: Hypervisor,
    guest: Callable[[str], Guest],
) -> None:
    (uuid,) = spawn(receiver, to_qemu_agent, images)
    guest(uuid).wait_console("Hello")
    hypervisor.kill_guest(uuid)
    crashed = receiver.wait_for(type="instance.lifecycle.crashed", instance_uuid=uuid)
    assert crashed["cause"] in ("unknown", "host")
    assert "Hello" in str(crashed["data"]["last_words"])
    assert to_qemu_agent.call("get_instance", instance_uuid=uuid)["state"] == "stopped"
    receiver.succeeded(to_qemu_agent.cast("power_on", instance_uuid=uuid))


def test_a_guest_that_shuts_itself_down_is_followed(
    receiver: Receiver, to_qemu_agent: Sender, images: Images, guest: Callable[[str], Guest]
) -> None:
    (uuid,) = spawn(receiver, to_qemu_agent, images)
    guest(uuid).wait_console("Hello")
    with guest(uuid).domain() as domain:
        domain.shutdown()
    stopped = receiver.wait_for(type="instance.lifecycle.stopped", instance_uuid=uuid, timeout=20)
    assert stopped["cause"] == "guest"
    assert stopped["operation_id"] is None
    assert to_qemu_agent.call("get_instance", instance_uuid=uuid)["state"] == "stopped"

# SPDX-License-Identifier: Apache-2.0
"""Real guests while the broker, the hypervisor's service or the agent is away."""

import time
from collections.abc import Callable

from tests.functional.serving import Served
from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.process import wait_until
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

OUTAGE_S = 30.0
"""How long the broker is away: long enough for every back-off to reach its longest pause."""


def test_guests_do_not_notice_a_restart_of_the_agent(alone: Served) -> None:
    kept, switched_off, paused = alone.spawned(3)
    before = {uuid: alone.guest(uuid).qemu_pid for uuid in (kept, paused)}
    told = alone.sender.call("ping")["as_of"]["seq"]
    alone.agent.kill()
    alone.hypervisor.kill_guest(switched_off)
    with alone.guest(paused).domain() as domain:
        domain.suspend()
    since = alone.receiver.mark()
    alone.agent.start()
    ends = ("instance.lifecycle.stopped", "instance.lifecycle.crashed")
    stopped = alone.receiver.wait_for(
        lambda event: event["type"] in ends, since=since, instance_uuid=switched_off, timeout=20
    )
    assert stopped["data"]["observed"] == "reconciled"
    held = alone.receiver.wait_for(since=since, instance_uuid=paused, type="instance.lifecycle.paused")
    assert held["data"]["observed"] == "reconciled"
    assert {uuid: alone.guest(uuid).qemu_pid for uuid in (kept, paused)} == before
    states = {uuid: alone.record(uuid)["state"] for uuid in before}
    assert states == {kept: "active", paused: "paused"}
    assert not [event for event in alone.receiver.of_instance(kept) if event["seq"] > told]
    alone.receiver.assert_gapless()


def test_verbs_wait_for_libvirtd_and_the_host_says_so(alone: Served) -> None:
    (uuid,) = alone.spawned()
    pid = alone.guest(uuid).qemu_pid
    alone.hypervisor.kill()
    away = alone.receiver.wait_for(type="host.disabled", timeout=30)
    assert away["data"]["owner"] == "hypervisor"
    assert alone.sender.call("ping")["hypervisor_away"]
    operation = alone.sender.cast("pause", instance_uuid=uuid)
    alone.receiver.wait_for(type="operation.started", operation_id=operation)
    alone.hypervisor.restart()
    alone.receiver.succeeded(operation, timeout=60)
    alone.receiver.wait_for(type="host.enabled", timeout=30)
    assert alone.guest(uuid).qemu_pid == pid
    assert alone.guest(uuid).state == "paused"
    alone.receiver.assert_gapless()


def test_a_verb_past_its_deadline_says_that_the_hypervisor_is_away(alone: Served) -> None:
    (uuid,) = alone.spawned()
    alone.hypervisor.kill()
    alone.receiver.wait_for(type="host.disabled", timeout=30)
    operation = alone.sender.cast("pause", instance_uuid=uuid, timeout_s=1)
    error = alone.receiver.failed(operation)["data"]["error"]
    assert error["code"] in ("HypervisorUnavailable", "Timeout")
    assert alone.record(uuid)["state"] == "active"
    alone.hypervisor.restart()
    alone.receiver.wait_for(type="host.enabled", timeout=30)
    alone.do("pause", instance_uuid=uuid)


def test_the_agent_starts_while_the_hypervisor_is_away(alone: Served) -> None:
    (uuid,) = alone.spawned()
    alone.agent.stop()
    alone.hypervisor.kill()
    alone.agent.start()
    assert alone.sender.call("ping")["hypervisor_away"]
    assert alone.record(uuid)["state"] == "active"
    alone.hypervisor.restart()
    alone.receiver.wait_for(type="host.enabled", timeout=30)
    alone.do("destroy", instance_uuid=uuid)


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


def test_a_killed_guest_leaves_its_last_words(alone: Served) -> None:
    (uuid,) = alone.spawned()
    alone.guest(uuid).wait_console("Hello")
    alone.hypervisor.kill_guest(uuid)
    crashed = alone.receiver.wait_for(type="instance.lifecycle.crashed", instance_uuid=uuid)
    assert crashed["cause"] in ("unknown", "host")
    assert "Hello" in str(crashed["data"]["last_words"])
    assert alone.record(uuid)["state"] == "stopped"
    alone.do("power_on", instance_uuid=uuid)


def test_a_guest_that_shuts_itself_down_is_followed(alone: Served) -> None:
    (uuid,) = alone.spawned()
    alone.guest(uuid).wait_console("Hello")
    with alone.guest(uuid).domain() as domain:
        domain.shutdown()
    stopped = alone.receiver.wait_for(type="instance.lifecycle.stopped", instance_uuid=uuid, timeout=20)
    assert stopped["cause"] == "guest"
    assert stopped["operation_id"] is None
    assert alone.record(uuid)["state"] == "stopped"

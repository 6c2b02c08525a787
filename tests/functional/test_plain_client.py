# SPDX-License-Identifier: Apache-2.0
"""The documentation's plain AMQP client does what the page says, with no library of ours in its process."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from compute_agent.model.event import EventType
from tests.rig.agent import Agent
from tests.rig.bootsector import TICKER, Images
from tests.rig.broker import Broker
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.receiver import Receiver

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "examples" / "plain_amqp.py"

# Whatever of ours or of OpenStack it tried to import would fail.
ALONE = """
import runpy, sys
for name in ("compute_agent", "oslo_messaging", "oslo_config", "kombu", "eventlet"):
    sys.modules[name] = None
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""

SPAWNED = ["operation.accepted", "operation.started", "instance.lifecycle.started", "operation.succeeded"]
DESTROYED = ["operation.accepted", "operation.started", "instance.lifecycle.stopped", "operation.succeeded"]
EVENT = re.compile(r"(?P<seq>\d+) \S+ (?P<type>[a-z_.]+) (?P<operation>\S+) \w+")


def run(broker: Broker, host: str, image: str) -> subprocess.CompletedProcess[str]:
    """The example in a process of its own, as a person would start it."""
    url = broker.transport_url.replace("rabbit://", "amqp://", 1)
    command = [sys.executable, "-I", "-c", ALONE, str(EXAMPLE), url, host, image]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def told(output: str) -> list[re.Match[str]]:
    """The events that it printed, without the changes of the record."""
    found = [match for line in output.splitlines() if (match := EVENT.fullmatch(line))]
    return [match for match in found if match["type"] not in (EventType.INSTANCE_UPDATED, "instance.removed")]


@pytest.fixture
def outcome(qemu_agent: Agent, broker: Broker, images: Images) -> subprocess.CompletedProcess[str]:
    return run(broker, qemu_agent.host, images.qcow2("plain-client", TICKER).as_uri())


def test_it_spawns_and_destroys_a_guest_and_reads_the_events_in_order(
    outcome: subprocess.CompletedProcess[str], fresh_hypervisor: Hypervisor
) -> None:
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    first = re.match(r"guest (\S+) is active, revision \d+\n", outcome.stdout)
    assert first is not None, outcome.stdout
    events = told(outcome.stdout)
    assert [event["type"] for event in events] == SPAWNED + DESTROYED
    assert len({event["operation"] for event in events}) == 2
    numbers = [int(event["seq"]) for event in events]
    assert numbers == sorted(set(numbers))
    assert Guest(fresh_hypervisor, first[1]).state == "absent"


def test_what_it_reads_is_what_every_receiver_gets(
    outcome: subprocess.CompletedProcess[str], receiver: Receiver
) -> None:
    events = told(outcome.stdout)
    last = int(events[-1]["seq"])
    receiver.wait_for(seq=last)
    heard = {event["seq"]: event["type"] for event in receiver.distinct()}
    assert {int(event["seq"]): event["type"] for event in events}.items() <= heard.items()


def test_it_tells_why_a_spawn_failed(qemu_agent: Agent, broker: Broker) -> None:
    outcome = run(broker, qemu_agent.host, "file:///etc/passwd")
    assert outcome.returncode == 1
    assert "operation.failed: ImageUnavailable" in outcome.stderr
    assert [event["type"] for event in told(outcome.stdout)][-1] == "operation.failed"


def test_it_tells_that_no_agent_serves_a_host(qemu_agent: Agent, broker: Broker) -> None:
    outcome = run(broker, f"not-{qemu_agent.host}", "file:///image")
    assert outcome.returncode == 1
    assert "no agent has ever served this host" in outcome.stderr

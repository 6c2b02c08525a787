# SPDX-License-Identifier: Apache-2.0
"""Domains that are on nobody's record: shown, adopted, forgotten, removed when named; and read back."""

from __future__ import annotations

import json
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from tests.functional.serving import Served
from tests.rig import domain
from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE, Images
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

DESCRIPTION = "metadata/{https://compute-agent.org/xmlns/instance/1}instance"


@pytest.fixture
def foreign(hypervisor: Hypervisor) -> Callable[[], str]:
    """Start a guest that no agent made; its uuid."""

    def make() -> str:
        found = str(uuid.uuid4())
        disk = hypervisor.images.raw(f"foreign-{found[:8]}", POLITE)
        connection = hypervisor.connect()
        xml = domain.plain_domain(disk, hypervisor.scratch / f"{found}.log", uuid=found)
        connection.defineXML(xml).create()
        connection.close()
        return found

    return make


def orphans(served: Served) -> set[str]:
    return {orphan["id"] for orphan in served.sender.call("list_orphans", kind="domain")["orphans"]}


def test_a_foreign_domain_is_shown_and_only_the_named_one_is_removed(
    served: Served, foreign: Callable[[], str]
) -> None:
    ours, one, other = served.spawn(), foreign(), foreign()
    assert {f"domain:{one}", f"domain:{other}"} <= orphans(served)
    assert f"domain:{ours}" not in orphans(served)
    assert one not in served.sender.call("list_instance_uuids")["uuids"]
    served.do("destroy_orphan", orphan_id=f"domain:{one}")
    assert served.guest(one).state == "absent"
    assert served.guest(one).qemu_pid is None
    assert (served.guest(other).state, served.guest(ours).state) == ("running", "running")
    assert f"domain:{one}" not in orphans(served)


@pytest.mark.parametrize("orphan", ["domain", "directory"])
def test_an_instance_on_record_is_no_orphan_to_be_destroyed(served: Served, orphan: str) -> None:
    ours = served.spawn()
    ended = served.do("destroy_orphan", orphan_id=f"{orphan}:{ours}")
    assert "no orphan" in ended["data"]["result"]["warning"]
    assert served.guest(ours).state == "running"
    assert all(disk.exists() for disk in served.guest(ours).disks)


def test_a_foreign_domain_is_adopted_as_it_is_and_then_obeys(
    served: Served, foreign: Callable[[], str]
) -> None:
    one = foreign()
    guest = served.guest(one)
    before, pid = ElementTree.tostring(guest.xml()), guest.qemu_pid
    assert served.fail("pause", instance_uuid=one)["code"] == "InstanceNotFound"
    served.do("adopt", instance_uuid=one)
    assert (ElementTree.tostring(guest.xml()), guest.qemu_pid) == (before, pid)
    record = served.record(one)
    assert (record["state"], record["managed"]) == ("active", False)
    assert (record["instance"]["flavor"]["vcpus"], record["instance"]["flavor"]["memory_mb"]) == (1, 16)
    assert f"domain:{one}" not in orphans(served)
    for verb, state in (("pause", "paused"), ("unpause", "running")):
        served.do(verb, instance_uuid=one)
        assert (guest.state, guest.qemu_pid) == (state, pid)
    served.do("power_off", instance_uuid=one, timeout=30, retry_interval=1)
    assert (guest.state, served.record(one)["state"]) == ("shutoff", "stopped")


def test_what_is_not_there_is_not_adopted(served: Served) -> None:
    assert served.fail("adopt", instance_uuid=str(uuid.uuid4()))["code"] == "InstanceNotFound"


def test_a_forgotten_guest_runs_on_and_can_be_taken_back(served: Served) -> None:
    ours = served.spawn(generation=7, metadata={"role": "web"})
    guest = served.guest(ours)
    pid, disks = guest.qemu_pid, guest.disks
    served.do("forget", instance_uuid=ours)
    assert (guest.state, guest.qemu_pid) == ("running", pid)
    assert disks and all(disk.exists() for disk in disks)
    assert ours not in served.sender.call("list_instance_uuids")["uuids"]
    assert f"domain:{ours}" in orphans(served)
    served.do("adopt", instance_uuid=ours)
    record = served.record(ours)
    assert (record["state"], record["generation"], record["managed"]) == ("active", 7, True)
    assert record["instance"]["metadata"] == {"role": "web"}
    assert guest.qemu_pid == pid


def test_new_metadata_is_in_the_domain_of_a_running_guest_and_stays(served: Served) -> None:
    ours = served.spawn(metadata={"role": "web", "tier": "1"})
    pid = served.guest(ours).qemu_pid
    served.do("update_instance", instance_uuid=ours, metadata={"role": "db & <x>"}, generation=1)
    assert served.record(ours)["instance"]["metadata"] == {"role": "db & <x>"}
    for inactive in (False, True):
        described = served.guest(ours).xml(inactive=inactive).find(DESCRIPTION)
        assert described is not None
        assert json.loads(described.text or "")["metadata"] == {"role": "db & <x>"}
    assert served.guest(ours).qemu_pid == pid
    served.do("forget", instance_uuid=ours)
    served.do("adopt", instance_uuid=ours)
    assert served.record(ours)["instance"]["metadata"] == {"role": "db & <x>"}


def test_a_lost_state_file_is_put_together_again_from_the_guests(
    receiver: Receiver,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    images: Images,
    guest: Callable[[str], Guest],
    foreign: Callable[[], str],
) -> None:
    one = agent(hypervisor=True)
    to = sender(one)
    image, stranger = images.qcow2("lost", POLITE), foreign()
    running, paused, stopped = (describe(image, generation=number) for number in (4, 5, 6))
    for operation in [to.cast("spawn", instance=each) for each in (running, paused, stopped)]:
        receiver.succeeded(operation)
    receiver.succeeded(to.cast("pause", instance_uuid=paused["uuid"]))
    receiver.succeeded(to.cast("power_off", instance_uuid=stopped["uuid"], timeout=0))
    pids = {each["uuid"]: guest(each["uuid"]).qemu_pid for each in (running, paused, stopped)}
    before = to.call("ping")["as_of"]
    one.stop()
    for path in one.state_path.glob("state.db*"):
        path.unlink()
    since = receiver.mark()
    one.start()
    reset = receiver.wait_for(type="host.state_reset", since=since)
    assert (reset["host_id"], reset["seq"]) == (before["host_id"], 1)
    assert reset["epoch"] != before["epoch"]
    found = {
        each["uuid"]: to.call("get_instance", instance_uuid=each["uuid"])
        for each in (running, paused, stopped)
    }
    assert [(r["state"], r["generation"]) for r in found.values()] == [
        ("active", 4),
        ("paused", 5),
        ("stopped", 6),
    ]
    assert {uuid: guest(uuid).qemu_pid for uuid in found} == pids
    assert stranger not in to.call("list_instance_uuids")["uuids"]
    told = receiver.wait_for(type="host.orphan_found", since=since)
    assert told["data"]["id"].startswith("domain:")
    assert not [e for e in receiver.events[since:] if e["type"].startswith("instance.lifecycle")]
    receiver.succeeded(to.cast("power_on", instance_uuid=stopped["uuid"]))
    assert guest(stopped["uuid"]).state == "running"

# SPDX-License-Identifier: Apache-2.0
"""A real guest's file systems, frozen through its agent: for a snapshot, by a verb, and never for ever."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from compute_agent.failpoints import VARIABLE
from tests.functional.serving import Served, serving
from tests.rig.broker import Broker
from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor
from tests.rig.process import wait_until
from tests.rig.writer import Writer, is_clean, is_consistent, writer

WAIT_S = 120.0
pytestmark = pytest.mark.timeout(900)
"""The guest's kernel may have to be fetched."""


@pytest.fixture(scope="module")
def place(hypervisor: Hypervisor) -> pathlib.Path:
    """A directory that snapshots may go to, and come from."""
    path = hypervisor.images_path / "snapshots"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, broker: Broker, hypervisor: Hypervisor, place: pathlib.Path
) -> Iterator[Served]:
    """An agent with real guests; a freeze lasts 30 s."""
    sections: dict[str, dict[str, object]] = {
        "images": {"allowed_destinations": [f"file://{place}/"]},
        "libvirt": {"freeze_limit": 30, "guest_agent_timeout": 4},
    }
    with serving(request, broker, hypervisor, sections=sections) as one:
        yield one


@pytest.fixture(scope="module")
def files(hypervisor: Hypervisor) -> Writer:
    return writer(hypervisor.images_path)


@pytest.fixture(scope="module")
def instance(served: Served, files: Writer) -> str:
    """A guest that writes all the time, and whose agent answers."""
    uuid = served.spawn(**files.described())
    wait_for_agent(served.guest(uuid))
    return uuid


def wait_for_agent(guest: Guest) -> None:
    guest.wait_console("wrote 3", timeout=WAIT_S)
    wait_until(lambda: frozen(guest) is False, WAIT_S, "the guest's agent")


def frozen(guest: Guest) -> bool | None:
    """Whether the guest's agent says that it is frozen; None if it says nothing."""
    import libvirt
    import libvirt_qemu

    try:
        with guest.domain() as domain:
            told = libvirt_qemu.qemuAgentCommand(domain, '{"execute": "guest-fsfreeze-status"}', 5, 0)
    except libvirt.libvirtError:
        return None
    return bool(json.loads(told)["return"] == "frozen")


def writes(guest: Guest) -> int:
    """How often the guest has written."""
    return guest.console().count("wrote")


def goes_on(guest: Guest) -> None:
    """See that the guest writes."""
    before = writes(guest)
    wait_until(lambda: writes(guest) > before + 2, WAIT_S, "the guest's writes", guest.console)


def raw(path: pathlib.Path) -> pathlib.Path:
    made = path.with_suffix(".raw")
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made


def note(served: Served, instance: str) -> pathlib.Path:
    return pathlib.Path(served.agent.instances_path) / instance / "frozen"


def snapshot(served: Served, instance: str, place: pathlib.Path, **fields: Any) -> pathlib.Path:
    path = place / f"{uuid.uuid4().hex}.qcow2"
    told = served.do("snapshot", instance_uuid=instance, destination={"url": path.as_uri(), **fields})
    assert told["data"]["result"]["quiesced"] is True
    return path


def test_a_live_snapshot_is_taken_of_a_frozen_guest_and_its_file_system_is_clean(
    served: Served, instance: str, place: pathlib.Path
) -> None:
    made = raw(snapshot(served, instance, place))
    assert is_clean(made)
    assert is_consistent(made)
    guest = served.guest(instance)
    assert frozen(guest) is False
    goes_on(guest)
    assert not note(served, instance).exists()


def test_an_agent_that_is_killed_while_a_guest_is_frozen_thaws_it_when_it_is_back(
    served: Served, instance: str, place: pathlib.Path
) -> None:
    guest = served.guest(instance)
    served.agent.stop()
    served.agent.environment[VARIABLE] = "snapshot.frozen=kill"
    served.agent.start()
    path = place / "never"
    cast = served.sender.cast("snapshot", instance_uuid=instance, destination={"url": path.as_uri()})
    served.agent.wait_end(WAIT_S)
    assert frozen(guest) is True
    del served.agent.environment[VARIABLE]
    served.agent.start()
    error = served.receiver.failed(cast, timeout=WAIT_S)["data"]["error"]
    assert error["code"] == "Interrupted"
    assert frozen(guest) is False
    goes_on(guest)
    assert guest.xml().find("devices/disk/mirror") is None
    assert [one.name for one in place.glob("never*")] == []
    assert list(note(served, instance).parent.glob("*.part")) == []


def test_quiesce_and_unquiesce_are_a_pair_and_may_be_repeated(
    served: Served, instance: str, place: pathlib.Path
) -> None:
    guest = served.guest(instance)
    served.do("quiesce", instance_uuid=instance)
    assert frozen(guest) is True
    stopped_at = writes(guest)
    served.do("quiesce", instance_uuid=instance)
    assert frozen(guest) is True
    assert writes(guest) <= stopped_at + 1
    snapshot(served, instance, place)
    assert frozen(guest) is True
    told = served.do("unquiesce", instance_uuid=instance)["data"]["result"]
    assert (told["filesystems"], told["expired"]) == (1, False)
    goes_on(guest)
    assert served.do("unquiesce", instance_uuid=instance)["data"]["result"]["filesystems"] == 0


@pytest.mark.long
def test_a_guest_that_was_paused_while_it_was_frozen_is_thawed_when_it_goes_on(
    served: Served, instance: str
) -> None:
    guest = served.guest(instance)
    served.do("quiesce", instance_uuid=instance)
    served.do("pause", instance_uuid=instance)
    served.agent.kill()
    served.agent.start()
    wait_until(lambda: "it is thawed" in served.agent.log_text(), WAIT_S, "its time", served.agent.log_text)
    served.do("unpause", instance_uuid=instance)
    wait_until(lambda: frozen(guest) is False, WAIT_S, "the guest to be thawed")
    goes_on(guest)


@pytest.mark.long
def test_a_freeze_that_nobody_ends_is_ended_also_by_the_next_agent(served: Served, instance: str) -> None:
    guest = served.guest(instance)
    served.do("quiesce", instance_uuid=instance)
    served.agent.kill()
    assert frozen(guest) is True
    served.agent.start()
    wait_until(lambda: frozen(guest) is False, WAIT_S, "the guest to be thawed")
    goes_on(guest)
    wait_until(lambda: "true" in note(served, instance).read_text(), WAIT_S, "the note of it")
    assert served.do("unquiesce", instance_uuid=instance)["data"]["result"]["expired"] is True
    assert not note(served, instance).exists()


@pytest.mark.long
def test_a_snapshot_of_a_guest_that_writes_all_the_time_boots_and_needs_no_repair(
    served: Served, files: Writer, instance: str, place: pathlib.Path
) -> None:
    made = snapshot(served, instance, place)
    described = files.described()
    described["image"] = {"url": made.as_uri(), "disk_format": "qcow2"}
    copy = served.guest(served.spawn(**described))
    said = copy.wait_console("wrote 3", timeout=WAIT_S)
    assert "mounted" in said and "recovered" not in said
    goes_on(served.guest(instance))


@pytest.mark.long
def test_one_that_is_not_quiesced_is_as_after_a_power_cut(
    served: Served, files: Writer, place: pathlib.Path
) -> None:
    described = files.described(hw_qemu_guest_agent="no")
    unaware = served.spawn(**described)
    served.guest(unaware).wait_console("wrote 3", timeout=WAIT_S)
    path = place / f"{uuid.uuid4().hex}.qcow2"
    told = served.do("snapshot", instance_uuid=unaware, destination={"url": path.as_uri()})
    assert told["data"]["result"]["quiesced"] is False
    assert not is_clean(raw(path))
    assert is_consistent(raw(path))
    served.do("destroy", instance_uuid=unaware)


@pytest.mark.long
def test_an_agent_that_hangs_fails_the_freeze_in_time_and_no_guest_stays_frozen(
    served: Served, instance: str
) -> None:
    guest = served.guest(instance)
    hang_agent(guest, seconds=15)
    assert served.fail("quiesce", instance_uuid=instance)["code"] == "GuestAgentUnavailable"
    goes_on(guest)
    wait_until(lambda: frozen(guest) is False, WAIT_S, "the guest's agent")
    wait_until(lambda: "true" in note(served, instance).read_text(), WAIT_S, "the note of it")
    served.do("quiesce", instance_uuid=instance)
    assert served.do("unquiesce", instance_uuid=instance)["data"]["result"]["expired"] is False


def hang_agent(guest: Guest, seconds: int) -> None:
    """Stop the process of the guest's agent; it goes on after a while."""
    import libvirt
    import libvirt_qemu

    script = f"p=$(pidof qemu-ga); (sleep {seconds}; kill -CONT $p) & kill -STOP $p"
    command = {"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", script]}}
    with guest.domain() as domain, contextlib.suppress(libvirt.libvirtError):
        libvirt_qemu.qemuAgentCommand(domain, json.dumps(command), 2, 0)

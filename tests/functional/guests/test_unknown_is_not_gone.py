# SPDX-License-Identifier: Apache-2.0
"""What the agent finds out of order it reports and leaves alone: each call to libvirtd is watched."""

from __future__ import annotations

import contextlib
import pathlib
import re
import uuid as uuids
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.rig import domain
from tests.rig.agent import Agent
from tests.rig.bootsector import POLITE
from tests.rig.hypervisor import Hypervisor
from tests.rig.instance import describe
from tests.rig.process import read_text
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

CALL = re.compile(
    r"debug : (vir(?:Domain|StoragePool|StorageVol|Network|NWFilter|Secret|Node|Connect)\w*):\d+ :"
)
HARMLESS = re.compile(
    r"^vir(?:Connect|Domain|Node)(?:Get|List|Lookup|Has|Is|Num|Open|Close|Ref|Free|Supports|BaselineCPU|CompareCPU)\w*$"
    r"|^virDomain(?:ListGetStats|StatsRecordListFree|MemoryStats|BlockStats|InterfaceStats)\w*$"
    r"|^virConnect(?:DomainEvent|RegisterCloseCallback|UnregisterCloseCallback|SetKeepAlive|SetIdentity)\w*$"
)
"""Calls that look, or register for events."""


class WatchedHypervisor(Hypervisor):
    """A libvirtd that writes down each call of its interface."""

    def _write_configuration(self, directory: pathlib.Path) -> None:
        super()._write_configuration(directory)
        path = directory / "libvirtd.conf"
        outputs = f'log_filters = "1:libvirt"\nlog_outputs = "2:stderr 1:file:{self.calls_log}"\n'
        path.write_text(re.sub(r"log_outputs.*\n", outputs, path.read_text()))

    @property
    def calls_log(self) -> pathlib.Path:
        return self.scratch / "calls.log"

    def calls(self, since: int = 0) -> list[str]:
        """The names of the calls, from a position of the log on."""
        return CALL.findall(read_text(self.calls_log)[since:])

    def mark(self) -> int:
        """The position up to which the log is now."""
        return len(read_text(self.calls_log))


@pytest.fixture(scope="module")
def watched(rig: Callable[[Any], Any]) -> WatchedHypervisor:
    return rig(WatchedHypervisor())


class Host:
    """An agent on a watched hypervisor, and guests to which something was done by hand."""

    def __init__(self, agent: Agent, to: Sender, receiver: Receiver, watched: WatchedHypervisor) -> None:
        self.agent, self.to, self.receiver, self.watched = agent, to, receiver, watched
        names = ("well", "undefined", "unpowered", "fileless", "renamed")
        self.guests = dict(zip(names, self._spawn(len(names)), strict=True))
        self.guests["foreign"] = self._foreign()
        agent.stop()
        with contextlib.closing(watched.connect()) as connection:
            found = {name: connection.lookupByUUIDString(uuid) for name, uuid in self.guests.items()}
            found["undefined"].undefine()  # it runs on, without a definition
            for name in ("unpowered", "fileless", "renamed"):
                found[name].destroy()
            found["unpowered"].undefine()  # its files are there
            self.directory("fileless").rename(agent.scratch / "moved-away")
            found["renamed"].rename("somebody-else")
        self.before = self.seen()

    def _spawn(self, number: int) -> list[str]:
        image = self.watched.images.qcow2("watched", POLITE)
        instances = [describe(image) for _ in range(number)]
        for operation in [self.to.cast("spawn", instance=instance) for instance in instances]:
            self.receiver.succeeded(operation, timeout=120)
        return [instance["uuid"] for instance in instances]

    def _foreign(self) -> str:
        uuid = str(uuids.uuid4())
        disk = self.watched.images.raw(f"foreign-{uuid[:8]}", POLITE)
        xml = domain.plain_domain(disk, self.watched.scratch / f"{uuid}.log", uuid=uuid)
        with contextlib.closing(self.watched.connect()) as connection:
            connection.defineXML(xml).create()
        return uuid

    def directory(self, name: str) -> pathlib.Path:
        return self.agent.instances_path / self.guests[name]

    def seen(self) -> dict[str, Any]:
        """All that an onlooker sees: domains, QEMU processes, files."""
        files = sorted(str(path) for path in self.agent.instances_path.rglob("*"))
        return {"domains": self.watched.domains(), "qemu": self.watched.qemu_pids(), "files": files}

    def assert_untouched(self, since: int) -> None:
        """Nobody has asked libvirtd for anything but to look, and all is as it was."""
        assert "virDomainDestroy" in self.watched.calls(), "those of the test itself are in the log"
        calls = self.watched.calls(since)
        assert "virConnectGetAllDomainStats" in calls
        assert sorted({call for call in calls if not HARMLESS.match(call)}) == []
        assert self.seen() == self.before


@pytest.fixture
def host(
    watched: WatchedHypervisor,
    agent: Callable[..., Agent],
    sender: Callable[[Agent], Sender],
    receiver: Receiver,
) -> Iterator[Host]:
    one = agent(hypervisor=watched)
    yield Host(one, sender(one), receiver, watched)
    watched.destroy_all()


def forget(agent: Agent, *, host_id: bool) -> None:
    """Take the state file away, or all that the agent ever knew."""
    for path in agent.state_path.glob("*" if host_id else "state.db*"):
        path.unlink()


@pytest.mark.parametrize("state", ["kept", "lost", pytest.param("none", marks=pytest.mark.long)])
def test_what_is_out_of_order_is_told_and_left_alone(host: Host, state: str) -> None:
    if state != "kept":
        forget(host.agent, host_id=state == "none")
    since, mark = host.watched.mark(), host.receiver.mark()
    host.agent.start()
    told = host.receiver.wait_for(type="host.orphan_found", since=mark, timeout=30)
    assert told["data"]["id"].startswith(("domain:", "directory:"))
    orphans = {orphan["id"] for orphan in host.to.call("list_orphans")["orphans"]}
    assert f"domain:{host.guests['foreign']}" in orphans
    on_record = set(host.to.call("list_instance_uuids")["uuids"])
    assert {host.guests["well"], host.guests["undefined"], host.guests["renamed"]} <= on_record
    if state == "kept":
        gone = host.to.call("get_instance", instance_uuid=host.guests["unpowered"])
        assert (gone["state"], gone["error"]["code"]) == ("error", "HypervisorError")
    else:
        assert f"directory:{host.guests['unpowered']}" in orphans
    for question in ("get_snapshot", "verify", "get_available_resource", "get_info"):
        host.to.call(question)
    host.assert_untouched(since)
    host.watched.restart(kill=True)
    host.receiver.wait_for(type="host.enabled", since=mark, timeout=60)
    host.to.call("get_info")
    host.agent.restart(kill=True)
    host.assert_untouched(since)

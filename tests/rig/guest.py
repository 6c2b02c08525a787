# SPDX-License-Identifier: Apache-2.0
"""One guest as seen from outside: by libvirt, the process table, its files and the host's network devices.

Nothing of the agent is asked. Files and devices are those that the domain's own XML names.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

from tests.rig import hypervisor as hypervisors
from tests.rig.process import RigError, read_text, wait_until


class Guest:
    """The guest with this uuid on a hypervisor; it need not exist (yet)."""

    def __init__(self, hypervisor: hypervisors.Hypervisor, uuid: str) -> None:
        self.hypervisor = hypervisor
        self.uuid = uuid

    @contextlib.contextmanager
    def domain(self) -> Iterator[Any]:
        """Its `libvirt.virDomain`, on a connection of its own. Raises libvirtError without one."""
        with contextlib.closing(self.hypervisor.connect()) as connection:
            yield connection.lookupByUUIDString(self.uuid)

    @property
    def exists(self) -> bool:
        """Whether libvirt knows it."""
        return self.uuid in self.hypervisor.domains()

    @property
    def running(self) -> bool:
        """Whether libvirt says that it is active (paused counts)."""
        return self.hypervisor.domains().get(self.uuid, False)

    @property
    def state(self) -> str:
        """libvirt's state: `running`, `paused`, `shutoff`, `crashed`, `pmsuspended`, ... or `absent`."""
        if not self.exists:
            return "absent"
        libvirt = hypervisors.bindings()
        names = {
            getattr(libvirt, name): name.removeprefix("VIR_DOMAIN_").lower()
            for name in (
                "VIR_DOMAIN_NOSTATE",
                "VIR_DOMAIN_RUNNING",
                "VIR_DOMAIN_BLOCKED",
                "VIR_DOMAIN_PAUSED",
                "VIR_DOMAIN_SHUTDOWN",
                "VIR_DOMAIN_SHUTOFF",
                "VIR_DOMAIN_CRASHED",
                "VIR_DOMAIN_PMSUSPENDED",
            )
        }
        with self.domain() as domain:
            return names[domain.state()[0]]

    @property
    def has_saved_memory(self) -> bool:
        """Whether libvirt keeps its memory on disk (managed save)."""
        with self.domain() as domain:
            return bool(domain.hasManagedSaveImage())

    @property
    def qemu_pid(self) -> int | None:
        """The pid of its QEMU, by the process table; None if there is none."""
        return self.hypervisor.qemu_pid(self.uuid)

    def xml(self, inactive: bool = False) -> ElementTree.Element:
        """Its domain's XML: the live one, or the one for the next start."""
        libvirt = hypervisors.bindings()
        flags = libvirt.VIR_DOMAIN_XML_SECURE | (libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0)
        with self.domain() as domain:
            return ElementTree.fromstring(domain.XMLDesc(flags))

    @property
    def console_path(self) -> pathlib.Path:
        """The file that its serial port is logged to. Raises RigError if it has none."""
        devices = self.xml().find("devices")
        assert devices is not None
        for element in [*devices.findall("serial"), *devices.findall("console")]:
            log, source = element.find("log"), element.find("source")
            if log is not None:
                return pathlib.Path(log.attrib["file"])
            if element.get("type") == "file" and source is not None:
                return pathlib.Path(source.attrib["path"])
        raise RigError(f"guest {self.uuid} logs its serial port nowhere")

    def console(self) -> str:
        """What it wrote to its serial port so far."""
        return read_text(self.console_path)

    def wait_console(self, text: str, timeout: float = 60.0) -> str:
        """Wait until its serial port has said `text`; all that it said."""
        path = self.console_path
        wait_until(
            lambda: text in read_text(path), timeout, f"{text!r} on the console", lambda: read_text(path)
        )
        return read_text(path)

    def wait_state(self, state: str, timeout: float = 60.0) -> None:
        """Wait until libvirt says it is in this state."""
        wait_until(lambda: self.state == state, timeout, f"{self.uuid} {state}", lambda: self.state)

    @property
    def disks(self) -> list[pathlib.Path]:
        """The files of its disks."""
        sources = self.xml().findall("devices/disk/source")
        return [pathlib.Path(source.attrib["file"]) for source in sources if "file" in source.attrib]

    def disk_chain(self, disk: pathlib.Path) -> list[dict[str, Any]]:
        """What `qemu-img info` says of a disk and what it stands on, nearest first."""
        command = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", str(disk)]
        told = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
        chain: list[dict[str, Any]] = json.loads(told)
        return chain

    @property
    def taps(self) -> list[str]:
        """The host's ends of its interfaces."""
        targets = self.xml().findall("devices/interface/target")
        return [target.attrib["dev"] for target in targets if "dev" in target.attrib]

    def kill(self) -> None:
        """Kill its QEMU behind libvirt's back."""
        self.hypervisor.kill_guest(self.uuid)

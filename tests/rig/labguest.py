# SPDX-License-Identifier: Apache-2.0
"""The Linux guest in a lab, wherever it runs just now: its signs of life, its disk, and raw migrations of it.

Nothing of the agent is asked: hosts' process tables, libvirt, the consoles' files, and ping. Its console may
be on shared storage or in pieces on several hosts; ticks are put together by their numbers.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from typing import Any

from tests.rig import linuxguest
from tests.rig.echo import Pinger
from tests.rig.guest import Guest
from tests.rig.instance import describe
from tests.rig.lab import Lab
from tests.rig.labhost import Host
from tests.rig.linuxguest import console as consoles
from tests.rig.process import RigError, read_text, wait_until

MEMORY_MB = 128

_BOOT_DEADLINE_S = 180.0
_IMAGE = "linux"


class LabGuest:
    """A guest of a lab.

    instances_path: as its agents have it. program: what it does, if not only the usual. fields: of the
    instance, over the usual ones.
    """

    def __init__(
        self,
        lab: Lab,
        instances_path: pathlib.Path,
        *,
        program: linuxguest.Program | None = None,
        **fields: Any,
    ) -> None:
        self.lab = lab
        self.address = lab.guest_address()
        self.instances_path = instances_path
        self._seen: dict[int, linuxguest.Tick] = {}
        self._forgotten: set[linuxguest.Tick] = set()
        usual: dict[str, Any] = {
            "flavor": {"vcpus": 1, "memory_mb": MEMORY_MB, "root_gb": 0},
            "network_info": [lab.vif(self.address)],
        }
        self.instance = describe(_image(lab, program), **(usual | fields))
        self.instance["image"]["properties"] = {"hw_qemu_guest_agent": "yes"}

    @property
    def uuid(self) -> str:
        uuid: str = self.instance["uuid"]
        return uuid

    @property
    def directory(self) -> pathlib.Path:
        """Its directory, as the hosts see it."""
        return self.instances_path / self.uuid

    def on(self, host: Host) -> Guest:
        """The guest as seen on one host; it need not be there."""
        return Guest(host.hypervisor, self.uuid)

    def running_on(self) -> list[Host]:
        """The hosts on which libvirt says that its processors run (not: paused, arriving)."""
        return [host for host in self.lab.hosts if self.on(host).state == "running"]

    def with_qemu(self) -> list[Host]:
        """The hosts on which there is a QEMU for it, running or not, by the process table."""
        return [host for host in self.lab.hosts if self.uuid in host.hypervisor.qemu_pids()]

    def console_files(self) -> list[pathlib.Path]:
        """Where its console is, as the test process sees it: one file, or one for each host."""
        inside = self.directory / "console.log"
        return list(dict.fromkeys(host.outside(inside) for host in self.lab.hosts))

    def console(self) -> str:
        """All that it said, host by host."""
        return "\n".join(read_text(path) for path in self.console_files())

    def ticks(self) -> list[linuxguest.Tick]:
        """Its ticks, in order of uptime: of a guest that was started once.

        They are remembered: a console goes with the directory that the guest leaves behind. Whoever wants all
        of them where storage is not shared keeps a `Watch` on the guest.
        """
        self.remember(linuxguest.ticks(self.console()))
        return [self._seen[up_ms] for up_ms in sorted(self._seen)]

    def remember(self, found: list[linuxguest.Tick]) -> None:
        """Keep ticks that were seen."""
        self._seen.update({tick.up_ms: tick for tick in found if tick not in self._forgotten})

    def forget_ticks(self) -> None:
        """Forget what was seen: it is started anew, and counts anew. An old console may still be there."""
        self._forgotten = {*self._forgotten, *self._seen.values(), *linuxguest.ticks(self.console())}
        self._seen.clear()

    def last_tick(self) -> linuxguest.Tick:
        """Its newest tick. Raises RigError if there is none."""
        found = self.ticks()
        if not found:
            raise RigError(f"guest {self.uuid} never ticked\n{self.console()}")
        return found[-1]

    def wait_up(self, timeout: float = _BOOT_DEADLINE_S) -> None:
        """Wait until it ticks, writes to its disk and answers a ping."""
        wait_until(lambda: self._writes(), timeout, f"life in guest {self.uuid}", self.console)
        with Pinger(self.address, 0.1) as pinger:
            pinger.wait_answer(timeout)

    def _writes(self) -> bool:
        found = self.ticks()
        return bool(found) and found[-1].records > 0

    def wait_ticks(self, more: int = 5, timeout: float = 60.0) -> None:
        """Wait until it has ticked, and written records, `more` times from now on."""
        before = self.last_tick()
        wait_until(
            lambda: self._is_past(before.number + more, before.records + more),
            timeout,
            f"{more} ticks of guest {self.uuid}",
            self.console,
        )

    def _is_past(self, number: int, records: int) -> bool:
        newest = self.last_tick()
        return newest.number >= number and newest.records >= records

    def troubles(self) -> list[str]:
        """Failed writes and wrong reads, as it said; uptime that jumped or stopped, as its ticks say."""
        found = consoles.troubles(self.console())
        gaps = consoles.gaps(self.ticks(), complete=False)
        for path in self.console_files():
            gaps += consoles.gaps(linuxguest.ticks(read_text(path)))
        found += [f"from {one} to {other}" for one, other in gaps]
        return found + [f"failed writes: {tick}" for tick in self.ticks()[-1:] if tick.failed]

    def disk_file(self, host: Host) -> pathlib.Path:
        """Its root disk on a host, as the test process finds it."""
        return host.outside(self.directory / "disk")

    def judge_disk(self, host: Host) -> linuxguest.Judgement:
        """Judge the records on its disk; it must be off. A host's private files are seen from inside it."""
        flat = host.private / f"{self.uuid}.flat"
        command = ["qemu-img", "convert", "-O", "raw", str(self.directory / "disk")]
        try:
            host.tell(*command, str(host.local / flat.name))
            return linuxguest.judge(flat)
        finally:
            flat.unlink(missing_ok=True)

    def migrate_raw(self, source: Host, destination: Host, *options: str) -> float:
        """Move it by `virsh migrate --live --p2p`, past all agents; how long that took in seconds."""
        self.carry_filters(source, destination)
        began = time.monotonic()
        source.virsh("migrate", "--live", "--p2p", *options, self.uuid, destination.uri, timeout=240)
        return time.monotonic() - began

    def carry_filters(self, source: Host, destination: Host) -> None:
        """Define its packet filters at the other end too: no libvirt takes a guest in without."""
        for name in source.virsh("nwfilter-list").split():
            if self.uuid in name:
                file = destination.private / f"{name}.xml"
                file.write_text(source.virsh("nwfilter-dumpxml", name))
                destination.virsh("nwfilter-define", str(destination.local / file.name))
                file.unlink()

    def prepare_raw(self, source: Host, destination: Host) -> None:
        """For `--copy-storage-all`: make its directory and an empty disk of its size at the other end."""
        domain = self.on(source).xml()
        disk = domain.find("devices/disk/source")
        assert disk is not None
        destination.outside(self.directory).mkdir(parents=True, exist_ok=True)
        size = self._virtual_size(source, pathlib.Path(disk.attrib["file"]))
        destination.tell("qemu-img", "create", "-q", "-f", "qcow2", disk.attrib["file"], str(size))

    def _virtual_size(self, host: Host, disk: pathlib.Path) -> int:
        libvirt_says = host.virsh("domblkinfo", self.uuid, str(disk))
        return int(next(line for line in libvirt_says.splitlines() if "Capacity" in line).split()[1])

    def destroy(self) -> None:
        """Pull its plug wherever it runs."""
        for host in self.with_qemu():
            with contextlib.suppress(RigError):
                host.virsh("destroy", self.uuid)


def _image(lab: Lab, program: linuxguest.Program | None) -> pathlib.Path:
    """The image for a program, made once per lab."""
    name = _IMAGE if program is None else f"{_IMAGE}-{program.tick_ms}-{program.dirty_mib}-{program.fill_mib}"
    path = lab.images.directory / f"{name}.qcow2"
    return path if path.exists() else linuxguest.image(path, program, qcow2=True)

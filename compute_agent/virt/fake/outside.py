# SPDX-License-Identifier: Apache-2.0
"""What happens to fake guests without the agent: what they do themselves, and people at the hypervisor.

A test does it by calling, or, from outside the agent's process, by lines in the ledger::

    {"guest": UUID, "power": "shutdown"}                        the guest shuts itself down
    {"guest": UUID, "power": "shutdown", "origin": "host"}      somebody pulled its plug
    {"guest": UUID, "power": "crashed"}                         its process was killed
    {"guest": UUID, "power": "running" | "paused" | "suspended" | "gone"}
    {"guest": UUID, "console": "text"}                          it writes to its console
    {"guest": UUID, "disk": "disk", "content": "text"}          it writes to its disk
    {"hypervisor": "away", "reason": "..."}, {"hypervisor": "back"}
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from compute_agent.model import errors
from compute_agent.model.states import PowerState
from compute_agent.virt.fake.hypervisor import CONSOLE_LIMIT, Hypervisor
from compute_agent.virt.fake.ledger import Ledger
from compute_agent.virt.fake.world import decoded

LOG = logging.getLogger(__name__)


class Outside:
    """The world around a fake hypervisor."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._acts: Mapping[str, Callable[[str, str], None]] = {
            "shutdown": self._shutdown,
            "crashed": lambda uuid, origin: self.crash(uuid),
            "running": self._run,
            "paused": hypervisor.pause,
            "suspended": hypervisor.save,
            "gone": self._remove,
        }

    # --- guests ------------------------------------------------------------------------------------------

    def shut_down(self, uuid: str) -> None:
        """The guest shuts itself down."""
        self._shutdown(uuid, "guest")

    def crash(self, uuid: str) -> None:
        """The guest's process is killed."""
        self._hypervisor.crash(uuid)

    def write_console(self, uuid: str, text: str) -> None:
        """The guest writes to its serial console."""
        console = (self._hypervisor.get(uuid).console + text)[-CONSOLE_LIMIT:]
        self._hypervisor.effect("console", uuid, domain={"console": console})

    def write_disk(self, uuid: str, name: str, text: str) -> None:
        """The guest writes to a disk, which then has that content."""
        self._hypervisor.running(uuid)
        files = self._hypervisor.world.directories[uuid]
        disks = {**files.disks, name: msgspec.structs.replace(files.disks[name], content=text)}
        self._hypervisor.effect("write", uuid, directories=msgspec.structs.replace(files, disks=disks))

    # --- people at the hypervisor --------------------------------------------------------------------------

    def destroy(self, uuid: str) -> None:
        """Somebody pulls a guest's plug."""
        self._shutdown(uuid, "host")

    def start(self, uuid: str) -> None:
        """Somebody starts a guest, or lets it go on."""
        self._run(uuid, "host")

    def pause(self, uuid: str) -> None:
        """Somebody holds a guest."""
        self._hypervisor.pause(uuid)

    def remove(self, uuid: str) -> None:
        """Somebody removes a guest; its files stay."""
        self._remove(uuid, "host")

    def define_foreign(self, uuid: str, name: str, memory_mb: int = 64) -> None:
        """Somebody makes a guest that is none of the agent's."""
        kib = memory_mb * 1024
        self._hypervisor.define(uuid, name=name, max_mem_kb=kib, mem_kb=kib)

    def _shutdown(self, uuid: str, origin: str) -> None:
        detail = "the guest shut down" if origin == "guest" else "the guest was stopped from outside"
        self._hypervisor.stop(uuid, origin, detail)

    def _run(self, uuid: str, origin: str) -> None:
        power = self._hypervisor.get(uuid).power
        if power is PowerState.PAUSED:
            self._hypervisor.unpause(uuid, origin)
        elif power is PowerState.SUSPENDED:
            self._hypervisor.restore(uuid, origin)
        else:
            self._hypervisor.start(uuid, origin=origin)

    def _remove(self, uuid: str, origin: str) -> None:
        self._hypervisor.stop(uuid, origin)
        self._hypervisor.undefine(uuid)

    # --- the ledger ----------------------------------------------------------------------------------------

    def replay(self, ledger: Ledger) -> None:
        """Rebuild the guests from a ledger. Nothing is told and nothing is written."""
        self._hypervisor.replaying = True
        try:
            for line in ledger.replay():
                self.happen(line)
        finally:
            self._hypervisor.replaying = False

    def poll(self, ledger: Ledger) -> int:
        """Let happen what others have appended to a ledger; return how many lines that were."""
        number = 0
        for line in ledger.poll():
            self.happen(line)
            number += 1
        return number

    def happen(self, line: Mapping[str, Any]) -> None:
        """Let happen what a line says. One that makes no sense is logged and left out."""
        try:
            self._happen(line)
        except (errors.ComputeError, msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
            LOG.warning("a line of the ledger was left out: %r: %s", line, error)

    def _happen(self, line: Mapping[str, Any]) -> None:
        uuid = line.get("guest")
        if "set" in line:
            self._hypervisor.world.apply(uuid, decoded(line["set"]))
        elif line.get("hypervisor") == "away":
            self._lose(line)
        elif line.get("hypervisor") == "back":
            self._hypervisor.regain()
        elif "console" in line:
            self.write_console(str(uuid), str(line["console"]))
        elif "disk" in line:
            self.write_disk(str(uuid), str(line["disk"]), str(line["content"]))
        elif "power" in line:
            origin = line.get("origin", "guest" if line["power"] == "shutdown" else "host")
            self._acts[line["power"]](str(uuid), origin)

    def _lose(self, line: Mapping[str, Any]) -> None:
        if not self._hypervisor.replaying:  # it is up when it was started again
            self._hypervisor.lose(line.get("reason", "the ledger says so"))

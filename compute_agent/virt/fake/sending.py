# SPDX-License-Identifier: Apache-2.0
"""The disks of a guest that is off pass from one fake host to another.

The one that receives opens a door, anew for each attempt; the one that sends writes through it as long as it
knows what the door is. What has come before is not sent again.
"""

import secrets
import time

import msgspec

from compute_agent import failpoints, steps
from compute_agent.model import errors
from compute_agent.virt.fake import peers
from compute_agent.virt.fake.hypervisor import Hypervisor
from compute_agent.virt.fake.world import Directory
from compute_agent.virt.info import MigrationStatus

INCOMING = "incoming"
"""The token of a directory into which a guest comes."""


def open_door(hypervisor: Hypervisor, uuid: str) -> str:
    """Let a source write what is to come; return what it has to know for that.

    :raises MigrationRefused: if there is something else of the instance
    """
    here = hypervisor.world.directories.get(uuid, Directory(token=INCOMING))
    if here.token != INCOMING or here.disks:
        raise errors.MigrationRefused("files of the instance are here already")
    door = secrets.token_hex(16)
    hypervisor.effect("open", uuid, directories=msgspec.structs.replace(here, door=door))
    return door


def remove(hypervisor: Hypervisor, uuid: str) -> None:
    """Remove what has come of an instance. Safe to repeat."""
    here = hypervisor.world.directories.get(uuid)
    if here is not None and here.token == INCOMING:
        hypervisor.effect("remove_files", uuid, directories=None)


class Sending:
    """What was set aside of one guest is being sent.

    :param seconds: how long all of it takes
    """

    def __init__(self, hypervisor: Hypervisor, uuid: str, seconds: float) -> None:
        self._hypervisor = hypervisor
        self._uuid = uuid
        self._seconds = seconds
        self._began = time.monotonic()
        self._disks = hypervisor.world.directories[uuid].aside_disks
        self._total = sum(disk.size for disk in self._disks.values())
        self._done = 0

    def status(self) -> MigrationStatus:
        """Return how far it is."""
        elapsed_ms = int((time.monotonic() - self._began) * 1000)
        return MigrationStatus(
            status="running", transferred_disk=self._done, total_disk=self._total, elapsed_ms=elapsed_ms
        )

    def send(self, dest: str, door: str | None) -> None:
        """Send each disk.

        :raises DestinationUnreachable: if the other host does not answer, or has another door by now
        """
        work = steps.current()
        for name, disk in self._disks.items():
            work.report(self._done, self._total)
            work.sleep(self._seconds / len(self._disks))
            self._send_one(dest, door, name)
            self._done += disk.size
            failpoints.hit("fake.migration.disk_sent")
        work.report(self._done, self._total)

    def _send_one(self, dest: str, door: str | None, name: str) -> None:
        disk = self._disks[name]
        with peers.reached(dest) as there:
            found = there.world.directories.get(self._uuid, Directory())
            if door is None or found.door != door:
                raise errors.DestinationUnreachable(f"the door at {dest} is closed")
            if found.came.get(name) != disk:
                came = msgspec.structs.replace(found, came={**found.came, name: disk})
                there.effect("came", self._uuid, directories=came)

# SPDX-License-Identifier: Apache-2.0
"""The floor of a spawn: an overlay by `qemu-img create`, then define and create of the agent's own XML.

The XML and the base image are those of a guest that the agent has spawned; only uuid, name and paths differ.
"""

from __future__ import annotations

import itertools
import pathlib
import re
import shutil
import subprocess
import time
import uuid as uuids
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.rig.guest import Guest
from tests.rig.hypervisor import Hypervisor, bindings
from tests.rig.process import RigError

#: Left out, so that the agent does not take the guests for lost ones of its own while it is measured.
_METADATA = re.compile(r"<metadata>.*</metadata>\s*", re.DOTALL)
_PARTS = ("floor: qemu-img create", "floor: define", "floor: create")
_PATH = re.compile(r"""=["'](/[^"']+)["']""")


class FloorGuests:
    """Makes guests like `sample`, a guest of the agent that runs."""

    def __init__(self, hypervisor: Hypervisor, sample: Guest) -> None:
        self._hypervisor = hypervisor
        #: For each guest made so far, the ms of each part.
        self.breakdowns: list[dict[str, float]] = []
        self._uuid = sample.uuid
        self._disk = sample.disks[0]
        chain = sample.disk_chain(self._disk)
        if len(chain) < 2:
            raise RigError(
                f"{self._disk} is no overlay: the floor of a spawn with a warm image is another then"
            )
        self._base, self._base_format = chain[0]["full-backing-filename"], chain[1]["format"]
        flags = bindings().VIR_DOMAIN_XML_INACTIVE | bindings().VIR_DOMAIN_XML_SECURE
        with sample.domain() as domain:
            self._xml = _METADATA.sub("", str(domain.XMLDesc(flags)))
        self._paths = [pathlib.Path(path) for path in _PATH.findall(self._xml) if self._uuid in path]

    def spawn(self, connection: Any) -> str:
        """Make and start one; its uuid."""
        uuid = str(uuids.uuid4())
        for path in self._paths:
            pathlib.Path(self._renamed(str(path), uuid)).parent.mkdir(parents=True, exist_ok=True)
        disk = self._renamed(str(self._disk), uuid)
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", self._base, "-F", self._base_format, disk]
        times = [time.monotonic()]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        times.append(time.monotonic())
        domain = connection.defineXML(self._renamed(self._xml, uuid))
        times.append(time.monotonic())
        domain.create()
        times.append(time.monotonic())
        took = ((after - before) * 1000 for before, after in itertools.pairwise(times))
        self.breakdowns.append(dict(zip(_PARTS, took, strict=True)))
        return uuid

    def _renamed(self, text: str, uuid: str) -> str:
        short = self._uuid.partition("-")[0], uuid.partition("-")[0]
        return text.replace(self._uuid, uuid).replace(*short)

    def time_one(self, connection: Any) -> tuple[float, str]:
        """The seconds that one takes, and its uuid."""
        began = time.monotonic()
        uuid = self.spawn(connection)
        return time.monotonic() - began, uuid

    def time_many(self, connections: Sequence[Any]) -> tuple[float, list[str]]:
        """The seconds that one on each connection takes, all at once in native threads, and their uuids."""
        with ThreadPoolExecutor(len(connections)) as pool:
            list(pool.map(lambda connection: connection.isAlive(), connections))  # the threads are there
            began = time.monotonic()
            made = list(pool.map(self.spawn, connections))
            return time.monotonic() - began, made

    def remove(self, uuids: Sequence[str]) -> None:
        """Destroy them and remove their files."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._remove, uuids))

    def _remove(self, uuid: str) -> None:
        guest = Guest(self._hypervisor, uuid)
        with guest.domain() as domain:
            domain.destroy()
            domain.undefine()
        for path in self._paths:
            shutil.rmtree(pathlib.Path(self._renamed(str(path), uuid)).parent, ignore_errors=True)

# SPDX-License-Identifier: Apache-2.0
"""Several hosts on one machine, with a broker that all of them reach: what migration is tested on.

Each host has network, mount and UTS namespaces, a libvirtd and agents of its own; they meet on a switch.
Labs stand side by side: each has a number, and from it names and addresses. It needs root and says so.
Invariant: after a lab, and after the death of the process that made it, however it died, no process,
namespace, network device, mount, domain or file of it is left.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import shutil
from collections.abc import Callable
from typing import Any, Self

from tests.rig import bootsector, scratch
from tests.rig.agent import Agent, Sections
from tests.rig.broker import Broker
from tests.rig.labhost import GUESTS_BRIDGE, Host
from tests.rig.linuxguest import mac_of
from tests.rig.part import Part
from tests.rig.process import RigError
from tests.rig.switch import Switch

_FIRST_GUEST = 101
_LAST_GUEST = 250


class Lab(Part):
    """Hosts on a switch, and a broker at the switch's address. hosts: how many."""

    def __init__(self, hosts: int = 2) -> None:
        if os.geteuid() != 0:
            raise RigError("the lab makes namespaces and network devices: run it as root")
        self._count = hosts
        self.scratch = scratch.make("ca-lab-")
        #: A directory that every host sees: shared storage.
        self.shared = self.scratch / "shared"
        #: Where every host sees a directory of its own, at the same path.
        self.local = self.scratch / "local"
        #: Images from which agents may spawn.
        self.images = bootsector.Images(self.scratch / "images")
        self.switch = Switch(remove=[] if scratch.keep() else [self.scratch])
        self.hosts: list[Host] = []
        self._broker: Broker | None = None
        self._runs = itertools.count(1)
        self._parts = itertools.cycle(range(_FIRST_GUEST, _LAST_GUEST))

    @property
    def broker(self) -> Broker:
        """The broker. Raises RigError before the start."""
        if self._broker is None:
            raise RigError("the lab is not started")
        return self._broker

    @property
    def transport_url(self) -> str:
        """What agents, and clients outside, have as their `transport_url`."""
        return self.broker.transport_url

    def start(self) -> Self:
        """Start switch, broker and hosts. Raises RigError with the logs."""
        for path in (self.shared, self.local):
            path.mkdir()
        self.switch.start()
        self._broker = Broker(self.switch.address)
        self.hosts = [self._host(number) for number in range(1, self._count + 1)]
        _all_at_once([self.broker.start, *(host.start for host in self.hosts)])
        return self

    def _host(self, number: int) -> Host:
        hosts_file = self.scratch / "hosts"
        hosts_file.write_text(self._names())
        name = self._name(number)
        return Host(
            self.switch,
            name=name,
            port=f"port{number}",
            address=self.switch.address_of(number),
            directory=self.scratch / name,
            local=self.local,
            hosts=hosts_file,
            remove=self.scratch,
        )

    def _name(self, number: int) -> str:
        return f"lab{self.switch.number}-host{number}"

    def _names(self) -> str:
        known = {"127.0.0.1": "localhost", self.switch.address: "broker"}
        known |= {self.switch.address_of(n): self._name(n) for n in range(1, self._count + 1)}
        return "".join(f"{address} {name}\n" for address, name in known.items())

    def agents(self, *, shared: bool = True, sections: Sections | None = None, **options: Any) -> list[Agent]:
        """A new, started agent on each host: their instances on shared storage, or each on its own."""
        instances = (self.shared if shared else self.local) / f"instances{next(self._runs)}"
        made = [
            host.agent(
                self.broker,
                instances_path=instances,
                images_path=self.images.directory,
                sections=sections,
                **options,
            )
            for host in self.hosts
        ]
        _all_at_once([agent.start for agent in made])
        return made

    def guest_address(self) -> str:
        """An address for a guest that none had lately."""
        return self.switch.address_of(next(self._parts))

    def vif(self, address: str, **fields: Any) -> dict[str, Any]:
        """An interface on the lab's network, as `spawn` names it; the Linux guest takes the address."""
        return {
            "id": f"vif-{address}",
            "type": "bridge",
            "bridge": GUESTS_BRIDGE,
            "address": mac_of(address),
            "fixed_ips": [address],
        } | fields

    def ensure(self) -> None:
        """Everything serves again, whatever a test did to it."""
        self.switch.unite()
        self.broker.ensure()
        for host in self.hosts:
            host.ensure()

    def clear(self) -> None:
        """End agents and domains and empty the directories: what a test leaves is gone before the next."""
        for host in self.hosts:
            host.clear()
        for directory in (self.shared, *(host.private for host in self.hosts)):
            for path in directory.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def evidence(self) -> str:
        """The ends of all logs, for a failing test."""
        found = [self.switch.evidence(), *(host.evidence() for host in self.hosts)]
        return "\n".join([*found, self._broker.evidence() if self._broker else ""])

    def close(self) -> None:
        """End everything; returns when it is gone."""
        for host in self.hosts:
            host.close()
        if self._broker is not None:
            self._broker.close()
        self.switch.close()
        scratch.remove(self.scratch)


def _all_at_once(calls: list[Callable[[], object]]) -> None:
    """Make all calls, each in a thread; raise the first error, if any, when all have ended."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()

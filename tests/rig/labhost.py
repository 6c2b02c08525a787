# SPDX-License-Identifier: Apache-2.0
"""One host of a lab: namespaces with a name, a NIC and directories of their own, a libvirtd, and agents.

Everything of it runs below the supervisor of its hypervisor, inside its namespaces, and goes with that.
"""

from __future__ import annotations

import itertools
import pathlib
import subprocess
import uuid as uuids
from typing import Any

from tests.rig.agent import Agent, Sections
from tests.rig.broker import Broker
from tests.rig.hypervisor import Hypervisor
from tests.rig.part import Part
from tests.rig.process import Process, Supervisor, tool
from tests.rig.switch import Switch

#: The bridge of each host to which guests are plugged.
GUESTS_BRIDGE = "br-guests"

_NIC = "eth0"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_BURST = "64kb"

_BRIDGES = pathlib.Path("/proc/sys/net/bridge")


def _filter_bridges(inside: Supervisor) -> None:
    """Have iptables see what goes over the host's bridges, or the rules of security groups do nothing."""
    if not _BRIDGES.exists():
        subprocess.run(
            [tool("modprobe", "kmod"), "br_netfilter"], check=True, capture_output=True, timeout=30
        )
    for family in ("iptables", "ip6tables"):
        inside.tell(["sh", "-c", f"echo 1 > {_BRIDGES}/bridge-nf-call-{family}"])


class Host(Part):
    """A host.

    name, address: what the others know it by. directory: its own, below the lab's; `local` is where it sees
    its `private` directory, and another host at the same path its own. hosts: the file that stands at
    /etc/hosts.
    """

    def __init__(
        self,
        switch: Switch,
        *,
        name: str,
        port: str,
        address: str,
        directory: pathlib.Path,
        local: pathlib.Path,
        hosts: pathlib.Path,
        remove: pathlib.Path,
    ) -> None:
        self.name = name
        self.address = address
        self.local = local
        self.private = directory / "private"
        self.agents: list[Agent] = []
        self._switch = switch
        self._port = port
        self._numbers = itertools.count(1)
        self.private.mkdir(parents=True)
        self.hypervisor = Hypervisor(
            hostname=name,
            tcp_address=address,
            network=self._lay_network,
            binds=[(self.private, local), (hosts, pathlib.Path("/etc/hosts"))],
            remove=[remove],
        )

    def _lay_network(self, inside: Supervisor) -> None:
        ip = tool("ip", "iproute2")
        self._switch.plug(self._port, inside.pid, _NIC)
        for line in (
            "link set lo up",
            f"link add {GUESTS_BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
            f"link set {_NIC} master {GUESTS_BRIDGE} up",
            # Fixed, or it would change with each guest that comes and goes.
            f"link set {GUESTS_BRIDGE} address 02:{self._port_mac()} up",
            f"address add {self.address}/24 dev {GUESTS_BRIDGE}",
        ):
            inside.tell([ip, *line.split()])
        _filter_bridges(inside)

    def _port_mac(self) -> str:
        return ":".join(["cb", *(f"{int(part):02x}" for part in self.address.split("."))])

    def start(self) -> Host:
        """Start its libvirtd; agents are started with `agent`."""
        self.hypervisor.start()
        return self

    @property
    def uri(self) -> str:
        """What another host's libvirtd reaches this one by."""
        return f"qemu+tcp://{self.address}/system"

    def outside(self, path: pathlib.Path) -> pathlib.Path:
        """Where the test process finds what the host sees at `path`."""
        return self.private / path.relative_to(self.local) if path.is_relative_to(self.local) else path

    def run(self, argv: list[str], log: pathlib.Path | None = None) -> Process:
        """Start a command on the host."""
        return self.hypervisor.supervisor.run(argv, log=log, env=self.hypervisor.environment)

    def tell(self, *argv: str, timeout: float = 60.0) -> str:
        """Run a command on the host to its end; what it printed. Raises RigError if it fails."""
        return self.hypervisor.supervisor.tell(argv, timeout)

    def virsh(self, *arguments: str, timeout: float = 120.0) -> str:
        """Run `virsh` against the host's libvirtd, on the host."""
        return self.tell(
            tool("virsh", "libvirt-clients"), "-c", self.hypervisor.uri, *arguments, timeout=timeout
        )

    def agent(
        self,
        broker: Broker,
        *,
        instances_path: pathlib.Path,
        images_path: pathlib.Path,
        sections: Sections | None = None,
        **options: Any,
    ) -> Agent:
        """A new agent of this host, not yet started, with a state and a name of its own."""
        ours = {
            "DEFAULT": {"my_ip": self.address, "instances_path": instances_path},
            "images": {"allowed_sources": [f"file://{images_path}/"]},
        }
        name = f"{self.name}-{next(self._numbers)}"
        made = Agent(broker, self.hypervisor, host=name, sections=ours, **options)
        made.configure(sections or {})
        self.outside(instances_path).mkdir(parents=True, exist_ok=True)
        self.agents.append(made)
        return made

    def forget_agents(self) -> None:
        """End its agents and remove what they kept."""
        while self.agents:
            self.agents.pop().close()

    def cut(self) -> None:
        """Pull its cable: it hears nobody and nobody hears it, nor its guests."""
        self._switch.cut(self._port)

    def mend(self) -> None:
        """End a `cut`."""
        self._switch.mend(self._port)

    def hang_up(self, ports: range) -> None:
        """Break the TCP connections to and from such ports, at once; both ends' programs are told."""
        first, last = ports[0], ports[-1]
        within = [f"( {end} >= :{first} and {end} <= :{last} )" for end in ("sport", "dport")]
        self.tell(tool("ss", "iproute2"), "-K", "-t", " or ".join(within))

    def shape(self, mbit: float) -> None:
        """Let no more than so many Mbit per second leave the host, its guests' packets included."""
        rate = f"{int(mbit * 1000)}kbit"
        words = f"qdisc replace dev {_NIC} root tbf rate {rate} burst {_BURST} latency 200ms"
        self.tell(tool("tc", "iproute2"), *words.split())

    def unshape(self) -> None:
        """End a `shape`; nothing to end is fine."""
        if "tbf" in self.tell(tool("tc", "iproute2"), "qdisc", "show", "dev", _NIC):
            self.tell(tool("tc", "iproute2"), *f"qdisc delete dev {_NIC} root".split())

    def lose_power(self) -> None:
        """End all that runs on it at once: agents, libvirtd, guests, and what /run held."""
        self.cut()
        for agent in self.agents:
            if agent.running:
                agent.kill()
        self.hypervisor.lose_power()

    def boot(self) -> None:
        """End a `lose_power`: another boot of the kernel by its id, libvirtd, no guest and no agent yet."""
        boot_id = self.private.parent / "boot-id"
        booted = boot_id.exists()
        boot_id.write_text(f"{uuids.uuid4()}\n")
        if not booted:
            self.tell("mount", "--bind", str(boot_id), _BOOT_ID)
        self.mend()
        self.hypervisor.start()

    def ensure(self) -> None:
        """Its libvirtd serves again, its cable is whole and as fast as it can be."""
        self.mend()
        self.unshape()
        self.hypervisor.ensure()

    def clear(self) -> None:
        """End its agents and domains."""
        self.forget_agents()
        self.hypervisor.destroy_all()

    def evidence(self) -> str:
        """The ends of its logs, for a failing test."""
        return "\n".join([self.hypervisor.evidence(), *(agent.evidence() for agent in self.agents)])

    def close(self) -> None:
        """End it with all that runs on it."""
        self.forget_agents()
        self.hypervisor.close()

# SPDX-License-Identifier: Apache-2.0
"""What can be done to a guest on the fake host. The driver stands on this as another on libvirt.

Each act looks first, refuses what a hypervisor refuses, changes the world in one go, writes it
into the ledger and tells its event; it returns when the event was told. An act that finds its effect
there already does nothing and tells nothing.
"""

import dataclasses
from typing import Any

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model import clock, errors
from compute_agent.model.states import PowerState
from compute_agent.virt import event as virt_event
from compute_agent.virt.fake.ledger import Ledger
from compute_agent.virt.fake.relay import Relay
from compute_agent.virt.fake.world import Domain, World

CONSOLE_LIMIT = 64 * 1024
"""Characters of a console that are kept."""
CPU_SHARE = 0.01
"""What an idle fake guest uses of a processor."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the host is."""

    vcpus: int
    memory_mb: int
    local_gb: int

    @classmethod
    def configured(cls) -> "Size":
        """Return it as the options say."""
        return cls(CONF.fake.vcpus, CONF.fake.memory_mb, CONF.fake.local_gb)


class Hypervisor:
    """The fake hypervisor of one host.

    :param relay: takes its events
    :param ledger: keeps its guests; None: they end with the process

    ``deaf`` are guests that do not heed a request to shut down, ``unreachable`` volumes that can't be
    connected, ``held`` devices (volumes' and interfaces' ids) that their guests do not release. ``away`` is
    the reason why the hypervisor does not answer, None while it does.
    """

    def __init__(self, relay: Relay, size: Size, ledger: Ledger | None = None) -> None:
        self.world = World()
        self.size = size
        self.deaf: set[str] = set()
        self.unreachable: set[str] = set()
        self.held: set[str] = set()
        self.away: str | None = None
        self.back = concurrency.Event()
        self._relay = relay
        self._ledger = ledger
        self.replaying = False

    # --- looking -------------------------------------------------------------------------------------

    def find(self, uuid: str) -> Domain | None:
        """Return a guest; None if there is none."""
        return self.world.domains.get(uuid)

    def get(self, uuid: str) -> Domain:
        """Return a guest.

        :raises InstanceNotFound: if there is none
        """
        domain = self.world.domains.get(uuid)
        if domain is None:
            raise errors.InstanceNotFound(f"the hypervisor has no guest {uuid}")
        return domain

    def running(self, uuid: str) -> Domain:
        """Return a guest that runs.

        :raises InstanceNotFound: if there is none
        :raises InvalidState: if it does not run
        """
        domain = self.get(uuid)
        if domain.power is not PowerState.RUNNING:
            raise errors.InvalidState(f"the instance does not run: it is {domain.power.name}")
        return domain

    def cpu_ns(self, domain: Domain) -> int:
        """Return the processor time that a guest has used since it was started, in ns."""
        if domain.running_since is None:
            return domain.cpu_ns
        return domain.cpu_ns + int(max(0.0, clock.unix() - domain.running_since) * CPU_SHARE * 1e9)

    # --- changing ------------------------------------------------------------------------------------

    def effect(self, name: str, uuid: str | None, **parts: Any) -> None:
        """Change the world, in the ledger first. The only way to do so.

        :raises DiskFull: if the ledger can't be written
        """
        if self._ledger is not None and not self.replaying:
            try:
                self._ledger.write(name, uuid, parts)
            except OSError as error:
                raise errors.DiskFull(f"the ledger can't be written: {error}") from error
        self.world.apply(uuid, parts)

    def define(self, uuid: str, **fields: Any) -> None:
        """Define a guest, or define it anew; it is off.

        :raises InstanceExists: if another guest has the name
        :raises InvalidState: if it is up
        """
        holder = self.world.uuids.get(fields["name"])
        if holder not in (None, uuid):
            raise errors.InstanceExists(f"the hypervisor has another guest named {fields['name']}")
        domain = self.find(uuid)
        if domain is not None and domain.is_up:
            raise errors.InvalidState("a guest that is up can't be defined anew")
        self.effect("define", uuid, domain={"power": PowerState.SHUTDOWN, "starts": 0, **fields})

    def undefine(self, uuid: str) -> None:
        """Strike a guest that is off. One that is not there is success.

        :raises InvalidState: if it is up
        """
        domain = self.find(uuid)
        if domain is None:
            return
        if domain.is_up:
            raise errors.InvalidState("a guest that is up can't be undefined")
        self.effect("undefine", uuid, domain=None)

    def start(
        self, uuid: str, paused: bool = False, origin: str = "host", started_by: str | None = None
    ) -> None:
        """Boot a guest that is off.

        :param paused: hold it before its first instruction
        :param started_by: the work that does it, where that has to be known later
        :raises InvalidState: if it is suspended: booting would lose its memory
        :raises InsufficientResources: if the host has no room for it
        """
        domain = self.get(uuid)
        if domain.is_up:
            return
        if domain.power is PowerState.SUSPENDED:
            raise errors.InvalidState("the instance is suspended", hint="resume it, or power_off first")
        text = f"{domain.name}: boot {domain.starts + 1}\r\n"
        self._go(
            domain,
            "start",
            paused,
            console=_tail(domain.console + text),
            starts=domain.starts + 1,
            started_by=started_by,
            cpu_ns=0,
        )
        self._tell(
            uuid, virt_event.EVENT_LIFECYCLE_PAUSED if paused else virt_event.EVENT_LIFECYCLE_STARTED, origin
        )

    def stop(self, uuid: str, origin: str = "host", detail: str | None = None) -> None:
        """Pull the plug. What a suspended guest has saved is dropped, and nothing is told of that."""
        domain = self.get(uuid)
        if domain.power is PowerState.SHUTDOWN:
            return
        was_up = domain.is_up
        self._halt(domain, "stop", PowerState.SHUTDOWN)
        if was_up:
            self._tell(uuid, virt_event.EVENT_LIFECYCLE_STOPPED, origin, detail)

    def crash(self, uuid: str, origin: str = "unknown") -> None:
        """End a guest as if its process had been killed."""
        domain = self.get(uuid)
        if domain.is_up:
            self._halt(domain, "crash", PowerState.CRASHED)
            self._tell(uuid, virt_event.EVENT_LIFECYCLE_CRASHED, origin, "the guest's process ended")

    def pause(self, uuid: str, origin: str = "host") -> None:
        """Hold a guest's processors.

        :raises InvalidState: if it does not run
        """
        domain = self.get(uuid)
        if domain.power is PowerState.PAUSED:
            return
        self.running(uuid)
        self._halt(domain, "pause", PowerState.PAUSED)
        self._tell(uuid, virt_event.EVENT_LIFECYCLE_PAUSED, origin)

    def unpause(self, uuid: str, origin: str = "host") -> None:
        """Let a paused guest go on.

        :raises InvalidState: if it is neither paused nor running
        """
        domain = self.get(uuid)
        if domain.power is PowerState.RUNNING:
            return
        if domain.power is not PowerState.PAUSED:
            raise errors.InvalidState(f"the instance is not paused: it is {domain.power.name}")
        self._go(domain, "unpause")
        self._tell(uuid, virt_event.EVENT_LIFECYCLE_RESUMED, origin)

    def save(self, uuid: str, origin: str = "host") -> None:
        """Write a guest's memory to disk and free it.

        :raises InvalidState: if it is off
        """
        domain = self.get(uuid)
        if domain.power is PowerState.SUSPENDED:
            return
        if not domain.is_up:
            raise errors.InvalidState(f"the instance does not run: it is {domain.power.name}")
        self._halt(domain, "save", PowerState.SUSPENDED)
        self._tell(uuid, virt_event.EVENT_LIFECYCLE_SUSPENDED, origin)

    def restore(self, uuid: str, origin: str = "host") -> None:
        """Bring a suspended guest back; it runs then.

        :raises InvalidState: if it is neither suspended nor running
        :raises InsufficientResources: if the host has no room for it
        """
        domain = self.get(uuid)
        if domain.power is PowerState.RUNNING:
            return
        if domain.power is not PowerState.SUSPENDED:
            raise errors.InvalidState(f"the instance is not suspended: it is {domain.power.name}")
        self._go(domain, "restore")
        self._tell(uuid, virt_event.EVENT_LIFECYCLE_RESUMED, origin)

    def _go(self, domain: Domain, effect: str, paused: bool = False, **changes: Any) -> None:
        changes["mem_kb"] = domain.mem_kb if domain.is_up else self.check_room(domain)
        changes["power"] = PowerState.PAUSED if paused else PowerState.RUNNING
        changes["running_since"] = None if paused else clock.unix()
        self.effect(effect, domain.uuid, domain=changes)

    def _halt(self, domain: Domain, effect: str, power: PowerState) -> None:
        changes = {"power": power, "cpu_ns": self.cpu_ns(domain), "running_since": None, "frozen": False}
        self.effect(effect, domain.uuid, domain=changes)

    def check_room(self, domain: Domain) -> int:
        """Return how much memory a guest gets (KiB): what it may have, or what is left if that is enough.

        :raises InsufficientResources: if the host has no room for it
        """
        free = self.size.memory_mb * 1024 - self.world.memory_kb
        given = min(domain.max_mem_kb, free)
        if given < (domain.min_mem_kb or domain.max_mem_kb):
            raise errors.InsufficientResources(
                f"the guest needs {domain.max_mem_kb // 1024} MiB, the host has {free // 1024} left"
            )
        if domain.vcpus > self.size.vcpus - self.world.vcpus:
            left = self.size.vcpus - self.world.vcpus
            raise errors.InsufficientResources(
                f"the guest needs {domain.vcpus} processors, the host has {left} left"
            )
        return given

    # --- telling -------------------------------------------------------------------------------------

    def _tell(self, uuid: str, transition: int, origin: str, detail: str | None = None) -> None:
        if not self.replaying:
            self._relay.tell(virt_event.LifecycleEvent(uuid, transition, origin=origin, detail=detail))

    def tell(self, uuid: str, transition: int, origin: str = "host") -> None:
        """Tell a transition that is no power state, such as a migration's."""
        self._tell(uuid, transition, origin)

    def lose(self, reason: str = "the fake hypervisor was told to go") -> None:
        """Stop answering, and tell it."""
        if self.away is None:
            self.away = reason
            self.back.clear()
            self._relay.tell(virt_event.HypervisorEvent(False, reason))

    def regain(self, reason: str = "the fake hypervisor is back") -> None:
        """Answer again, and tell it."""
        if self.away is not None:
            self.away = None
            self.back.set()
            self._relay.tell(virt_event.HypervisorEvent(True, reason))

    def close(self) -> None:
        """Let go of the ledger; the guests stay."""
        if self._ledger is not None:
            self._ledger.close()


def _tail(text: str) -> str:
    return text[-CONSOLE_LIMIT:]


def free_bytes(hypervisor: Hypervisor) -> int:
    """Return what is left of the host's disk, in bytes."""
    return hypervisor.size.local_gb * 2**30 - hypervisor.world.disk_bytes

# SPDX-License-Identifier: Apache-2.0
"""What there is on the fake host: guests, their directories, interfaces, filters, volumes, images.

Everything here changes through :meth:`World.apply` alone, by values that also go into the ledger,
so replaying a ledger gives the same world.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent.model.states import PowerState

UP = frozenset({PowerState.RUNNING, PowerState.PAUSED})
"""Power states in which a guest has memory."""


class Disk(msgspec.Struct, frozen=True):
    """A file in an instance's directory; sizes in bytes. ``content`` stands for what a guest has written."""

    name: str
    size: int
    format: str = "qcow2"
    used: int = 0
    backing: str | None = None
    content: str = ""


class Device(msgspec.Struct, frozen=True):
    """A disk as a guest sees it.

    ``target`` is its name without ``/dev/``; ``source`` the file or the volume behind it; ``chain`` the
    snapshots of a volume, oldest first; ``size`` in bytes.
    """

    target: str
    source: str
    kind: str = "file"
    bus: str = "virtio"
    device_type: str = "disk"
    size: int = 0
    read_only: bool = False
    boot_index: int | None = None
    chain: list[str] = []


class Nic(msgspec.Struct, frozen=True):
    """An interface as a guest sees it, and its tap device on the host."""

    id: str
    mac: str
    tap: str
    model: str = "virtio"
    bridge: str | None = None


class Domain(msgspec.Struct):
    """A guest.

    ``token`` is the work that made it: an operation's id, or one of a direct call. ``starts``
    counts how often it was started since it was defined, ``started_by`` is the work that did so last (a
    reboot's). ``described`` is the instance without its secrets. ``own_devices`` are kept there while it is
    rescued. ``held_from`` is what it was before it was moved here, as long as it is held for its agents'
    word; ``moved_to`` where it was moved to, while what is left of it is here. Times in s and ns, memory in
    KiB.
    """

    uuid: str
    name: str
    token: str | None = None
    generation: int = 0
    described: dict[str, Any] | None = None
    power: PowerState = PowerState.SHUTDOWN
    starts: int = 0
    started_by: str | None = None
    vcpus: int = 1
    max_mem_kb: int = 0
    mem_kb: int = 0
    min_mem_kb: int = 0
    devices: dict[str, Device] = {}
    nics: dict[str, Nic] = {}
    own_devices: dict[str, Device] | None = None
    has_agent: bool = False
    frozen: bool = False
    password: str | None = None
    files: dict[str, str] = {}
    interrupts: int = 0
    console: str = ""
    cpu_ns: int = 0
    running_since: float | None = None
    held_from: PowerState | None = None
    moved_to: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether it has memory: runs or is paused."""
        return self.power in UP


class Directory(msgspec.Struct, frozen=True):
    """An instance's directory.

    ``aside`` is the guest as it was before it moved or was resized; ``sent``: all of it is where it went.
    ``came``: what another host has sent so far, which may write as long as it knows what the ``door`` is.
    """

    token: str | None = None
    disks: dict[str, Disk] = {}
    aside: Domain | None = None
    aside_disks: dict[str, Disk] = {}
    sent: bool = False
    came: dict[str, Disk] = {}
    door: str | None = None


class HostState(msgspec.Struct, frozen=True):
    """The host itself: what it was told, and its image cache (bytes by key)."""

    enabled: bool = True
    maintenance: bool = False
    images: dict[str, int] = {}
    uploads: dict[str, str] = {}


PARTS: Mapping[str, Any] = {
    "directories": Directory,
    "plugged": dict[str, str],
    "filters": list[dict[str, Any]],
    "volumes": dict[str, str],
}
"""What a change may hold beside ``domain``, and its type: by the uuid of the instance."""

_DOMAIN_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Domain)}


class World:
    """All of it, with sums that are kept up as it changes: memory in KiB, processors, disk in bytes."""

    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.uuids: dict[str, str] = {}
        self.directories: dict[str, Directory] = {}
        self.plugged: dict[str, dict[str, str]] = {}
        self.filters: dict[str, list[dict[str, Any]]] = {}
        self.volumes: dict[str, dict[str, str]] = {}
        self.host = HostState()
        self.memory_kb = 0
        self.vcpus = 0
        self.disk_bytes = 0

    def apply(self, uuid: str | None, parts: Mapping[str, Any]) -> None:
        """Take over a change.

        :param uuid: the instance's; None for the host
        :param parts: ``domain``: fields to set, or None when it is gone; ``host``: the new state; and
            those of :data:`PARTS`: the new value, or None when it is gone
        """
        for part, value in parts.items():
            if part == "host":
                self.host = value
            elif uuid is not None and part == "domain":
                self._apply_domain(uuid, value)
            elif uuid is not None:
                self._apply_part(part, uuid, value)

    def _apply_domain(self, uuid: str, changes: Mapping[str, Any] | None) -> None:
        domain = self.domains.get(uuid)
        if domain is not None:
            self._count(domain, -1)
        if changes is None:
            if domain is not None:
                del self.domains[uuid]
                del self.uuids[domain.name]
            return
        if domain is None:
            domain = self.domains[uuid] = Domain(uuid=uuid, **changes)
            self.uuids[domain.name] = uuid
        else:
            for name, value in changes.items():
                setattr(domain, name, value)
        self._count(domain, 1)

    def _count(self, domain: Domain, sign: int) -> None:
        if domain.is_up:
            self.memory_kb += sign * domain.mem_kb
            self.vcpus += sign * domain.vcpus

    def _apply_part(self, part: str, uuid: str, value: Any) -> None:
        table = getattr(self, part)
        if part == "directories":
            self.disk_bytes += _bytes(value) - _bytes(table.get(uuid))
        if value is None:
            table.pop(uuid, None)
        else:
            table[uuid] = value


def decoded(parts: Any) -> dict[str, Any]:
    """Return a change that was read from a ledger, with its proper types.

    :raises msgspec.ValidationError: if it is not one
    """
    return {part: _decode(part, value) for part, value in msgspec.convert(parts, dict[str, Any]).items()}


def _decode(part: str, value: Any) -> Any:
    if value is None:
        return None
    if part == "domain":
        return {name: msgspec.convert(item, _DOMAIN_FIELDS[name]) for name, item in value.items()}
    return msgspec.convert(value, HostState if part == "host" else PARTS[part])


def _bytes(directory: Directory | None) -> int:
    if directory is None:
        return 0
    all_disks = (directory.disks, directory.aside_disks, directory.came)
    return sum(disk.size for disks in all_disks for disk in disks.values())

# SPDX-License-Identifier: Apache-2.0
"""The devices of a guest: disks with their names and buses, interfaces, consoles and the small ones."""

import dataclasses
import enum
import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif, VifModel, VifType
from compute_agent.virt.libvirt import config
from compute_agent.virt.libvirt.facts import HostFacts, Settings
from compute_agent.virt.libvirt.filtering.design import name_of
from compute_agent.virt.libvirt.paths import InstancePaths, tap_name
from compute_agent.virt.libvirt.properties import PointerModel, Properties, WatchdogProperty
from compute_agent.virt.libvirt.volumes import place
from compute_agent.virt.libvirt.volumes.place import NetworkSource

E = TypeVar("E", bound=enum.Enum)

GUEST_AGENT = "org.qemu.guest_agent.0"
BALLOON_STATS_PERIOD_S = 10
_RANDOM = "/dev/urandom"
_PREFIXES = {
    config.DiskBus.VIRTIO: "vd",
    config.DiskBus.SCSI: "sd",
    config.DiskBus.SATA: "sd",
    config.DiskBus.USB: "sd",
    config.DiskBus.IDE: "hd",
    config.DiskBus.FDC: "fd",
}


class DiskRole(enum.IntEnum):
    """What a disk is to its guest; disks are attached in this order."""

    ROOT = 0
    EPHEMERAL = 1
    SWAP = 2
    IMAGE = 3
    VOLUME = 4
    CONFIG_DRIVE = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuestDisk:
    """A disk to attach.

    :param source: absolute path on the host
    :param format: what QEMU is told, ``raw`` or ``qcow2``: it never guesses
    :param block: the source is a block device, not a file
    :param bus: None for the image's or the machine's usual one
    :param device: ``disk``, ``cdrom`` or ``floppy``
    :param target: the wished name (``/dev/vdb``); taken if it is free and fits the bus
    :param boot_index: 0 is tried first; None, or a negative one, is not booted from
    :param cache: None for QEMU's usual
    :param discard: hand on to the host what the guest discards
    :param io, detect_zeroes: None for QEMU's usual
    :param network: where it is in the network; then ``source`` says nothing
    :param luks_secret: libvirt's uuid of the secret that opens it: it is encrypted with LUKS
    :param shareable: other guests use it at the same time
    :param limits: bytes and requests per second, over those of the flavor: fields of :class:`config.Disk`
    """

    source: str
    format: str
    role: DiskRole = DiskRole.ROOT
    block: bool = False
    bus: str | None = None
    device: str = "disk"
    target: str | None = None
    serial: str | None = None
    read_only: bool = False
    boot_index: int | None = None
    cache: str | None = None
    discard: bool = False
    io: str | None = None
    detect_zeroes: str | None = None
    network: NetworkSource | None = None
    luks_secret: str | None = None
    shareable: bool = False
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)


def disks(
    wanted: Sequence[GuestDisk], asked: Properties, facts: HostFacts, machine: str, *, boots: bool
) -> list[config.Disk]:
    """Return the disks, named and put on their buses.

    :param boots: whether the guest boots from them, not from a kernel on the host
    :raises InvalidArguments: if a bus or device is unknown, or a source is no absolute path
    """
    ordered = sorted(wanted, key=lambda disk: disk.role)
    buses = [_bus(disk, asked, facts, machine) for disk in ordered]
    targets = _targets(ordered, buses)
    indexes = _boot_indexes(ordered) if boots else {}
    return [
        _disk(disk, bus, target, indexes.get(number), asked)
        for number, (disk, bus, target) in enumerate(zip(ordered, buses, targets, strict=True))
    ]


def _bus(disk: GuestDisk, asked: Properties, facts: HostFacts, machine: str) -> config.DiskBus:
    if disk.bus is not None:
        return _member(config.DiskBus, disk.bus, "disk bus")
    if disk.device == config.DiskDevice.FLOPPY:
        return config.DiskBus.FDC
    if disk.device == config.DiskDevice.CDROM:
        usual = config.DiskBus.SCSI if facts.arch != "x86_64" else _optical_bus(machine)
        return asked.cdrom_bus or usual
    return asked.disk_bus or config.DiskBus.VIRTIO


def _optical_bus(machine: str) -> config.DiskBus:
    return config.DiskBus.SATA if "q35" in machine else config.DiskBus.IDE


def _targets(wanted: Sequence[GuestDisk], buses: Sequence[config.DiskBus]) -> list[str]:
    taken: dict[int, str] = {}
    for number, (disk, bus) in enumerate(zip(wanted, buses, strict=True)):
        wish = (disk.target or "").removeprefix("/dev/")
        if re.fullmatch(f"{_PREFIXES[bus]}[a-z]{{1,2}}", wish) and wish not in taken.values():
            taken[number] = wish
    for number, bus in enumerate(buses):
        if number not in taken:
            taken[number] = next(name for name in _names(_PREFIXES[bus]) if name not in taken.values())
    return [taken[number] for number in range(len(buses))]


def free_name(bus: str | None, taken: Collection[str]) -> str:
    """Return the first name, such as ``/dev/vdb``, that a device on ``bus`` may have.

    :param bus: None for the usual one
    :param taken: names that are in use
    :raises InvalidArguments: if the bus is unknown, or has no name left
    """
    prefix = _PREFIXES[_member(config.DiskBus, (bus or config.DiskBus.VIRTIO).lower(), "disk bus")]
    name = next((name for name in _names(prefix) if f"/dev/{name}" not in taken), None)
    if name is None:
        raise errors.InvalidArguments("the guest has no name left for a device")
    return f"/dev/{name}"


def _names(prefix: str) -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    for length in (1, 2):
        for combination in itertools.product(letters, repeat=length):
            yield prefix + "".join(combination)


def _boot_indexes(wanted: Sequence[GuestDisk]) -> dict[int, int]:
    """Return the place of each disk that is booted from, from 1; without any wish the first disk is it."""
    asked = ((disk.boot_index, number) for number, disk in enumerate(wanted))
    wishes = [(index, number) for index, number in asked if index is not None and index >= 0]
    if not wishes and wanted:
        wishes = [(0, 0)]
    return {number: place for place, (_, number) in enumerate(sorted(wishes), start=1)}


def _disk(
    disk: GuestDisk, bus: config.DiskBus, target: str, boot_order: int | None, asked: Properties
) -> config.Disk:
    if disk.network is None and not disk.source.startswith("/"):
        raise errors.InvalidArguments(f"not an absolute path: {disk.source[:256]}")
    device = _member(config.DiskDevice, disk.device, "disk device")
    made = config.Disk(
        type=config.DiskType.BLOCK if disk.block else config.DiskType.FILE,
        device=device,
        driver="qemu",
        format=disk.format,
        cache=None if disk.cache is None else _member(config.DiskCache, disk.cache, "cache mode"),
        io=None if disk.io is None else _member(config.DiskIo, disk.io, "io mode"),
        discard=config.DiskDiscard.UNMAP if disk.discard else None,
        detect_zeroes=_zeroes(disk.detect_zeroes),
        source_file=None if disk.block else disk.source,
        source_device=disk.source if disk.block else None,
        target=target,
        bus=bus,
        read_only=disk.read_only or device is config.DiskDevice.CDROM,
        serial=disk.serial,
        boot_order=boot_order,
        shareable=disk.shareable,
    )
    made = made if device is not config.DiskDevice.DISK else _limited(made, asked)
    return _as_volume(made, disk)


def _as_volume(made: config.Disk, disk: GuestDisk) -> config.Disk:
    """Return the disk with what only volumes have."""
    made = made if disk.network is None else place.write(made, disk.network)
    if disk.luks_secret is not None:
        made = dataclasses.replace(
            made,
            encryption="luks",
            encryption_secret_type="passphrase",
            encryption_secret=disk.luks_secret,
        )
    limits: dict[str, Any] = dict(disk.limits)
    return dataclasses.replace(made, **limits)


def place_of(disk: GuestDisk) -> config.Disk:
    """Return where a disk is, and nothing else of it."""
    made = config.Disk(
        type=config.DiskType.BLOCK if disk.block else config.DiskType.FILE,
        source_file=None if disk.block else disk.source,
        source_device=disk.source if disk.block else None,
    )
    return _as_volume(made, dataclasses.replace(disk, limits={}))


def one(
    disk: GuestDisk, asked: Properties, facts: HostFacts, machine: str, taken: Collection[str]
) -> config.Disk:
    """Return one more disk, for a guest that is there.

    :param taken: the names of its devices
    :raises InvalidArguments: as :func:`disks`, or if it has no name left
    :raises DeviceBusy: if the wished name is taken
    """
    bus = _bus(disk, asked, facts, machine)
    wish = (disk.target or "").removeprefix("/dev/")
    if wish in taken:
        raise errors.DeviceBusy(f"the guest has a device {wish} already", retryable=False)
    fits = re.fullmatch(f"{_PREFIXES[bus]}[a-z]{{1,2}}", wish) is not None
    target = wish if fits else next((name for name in _names(_PREFIXES[bus]) if name not in taken), None)
    if target is None:
        raise errors.InvalidArguments("the guest has no name left for a device")
    return _disk(disk, bus, target, None, asked)


def _limited(disk: config.Disk, asked: Properties) -> config.Disk:
    return dataclasses.replace(
        disk,
        total_bytes=asked.disk_total_bytes,
        read_bytes=asked.disk_read_bytes,
        write_bytes=asked.disk_write_bytes,
        total_iops=asked.disk_total_iops,
        read_iops=asked.disk_read_iops,
        write_iops=asked.disk_write_iops,
    )


def _zeroes(text: str | None) -> config.DiskZeroes | None:
    return None if text is None else _member(config.DiskZeroes, text, "detect_zeroes")


def _member(kind: type[E], text: str, what: str) -> E:
    try:
        return kind(text)
    except ValueError:
        raise errors.InvalidArguments(f"unknown {what}: {text[:64]}") from None


def controllers(
    made: Sequence[config.Disk], machine: str = "", pcie_ports: int = 0
) -> list[config.Controller]:
    """Return the controllers that libvirt would not choose as we want them.

    :param pcie_ports: slots for all devices, those that come later too: libvirt leaves one free
    """
    found = []
    if any(disk.bus == config.DiskBus.SCSI for disk in made):
        found.append(config.Controller(type="scsi", index=0, model="virtio-scsi"))
    if pcie_ports and ("q35" in machine or machine.startswith("virt")):
        found.append(config.Controller(type="pci", index=0, model="pcie-root"))
        ports = range(1, pcie_ports + 1)
        found += [config.Controller(type="pci", index=port, model="pcie-root-port") for port in ports]
    return found


def interface(vif: Vif, instance: Instance, asked: Properties, settings: Settings) -> config.Interface:
    """Return the interface of ``vif``; the host's end is named after its id.

    :raises InvalidArguments: if it names no bridge
    :raises UnsupportedOperation: if it is of a type that is not offered
    """
    if vif.type is not VifType.BRIDGE:
        raise errors.UnsupportedOperation(f"VIF {vif.id}: type {vif.type} is not offered by this release")
    if vif.bridge is None:
        raise errors.InvalidArguments(f"VIF {vif.id} is of type bridge and names no bridge")
    model = vif.model if vif.model is not VifModel.VIRTIO else asked.vif_model or VifModel.VIRTIO
    vcpus = instance.flavor.vcpus
    filtered = settings.filters and vif.port_filter
    many = asked.multiqueue and model is VifModel.VIRTIO and vcpus > 1
    return config.Interface(
        type=config.InterfaceType.BRIDGE,
        mac=vif.address.lower(),
        bridge=vif.bridge,
        target=tap_name(vif.id),
        model=str(model),
        driver="vhost" if many else None,
        queues=min(vcpus, 8) if many else None,
        mtu=vif.mtu,
        filter=config.FilterRef(filter=name_of(instance.uuid, vif)) if filtered else None,
    )


def serials(paths: InstancePaths, count: int) -> list[config.Serial]:
    """Return the serial ports; what the guest writes to the first is kept in the console log."""
    return [
        config.Serial(
            type=config.CharType.PTY,
            log_file=paths.console_log if port == 0 else None,
            log_append=True if port == 0 else None,
            port=port,
        )
        for port in range(count)
    ]


def channels(asked: Properties) -> list[config.Channel]:
    """Return the wire to the guest agent if there is one."""
    return [config.Channel(name=GUEST_AGENT)] if asked.guest_agent else []


def graphics(settings: Settings) -> list[config.Graphics]:
    """Return the graphics consoles that the configuration gives to guests."""
    found = [
        (config.GraphicsType.VNC, settings.vnc_listen),
        (config.GraphicsType.SPICE, settings.spice_listen),
    ]
    return [
        config.Graphics(type=kind, port=-1, auto_port=True, listen=address)
        for kind, address in found
        if address
    ]


def videos(asked: Properties, settings: Settings) -> list[config.Video]:
    """Return a video card if somebody can look at it, or the image asks for one."""
    if asked.video_model is None and not graphics(settings):
        return []
    vram = None if asked.video_ram_mb is None else asked.video_ram_mb * 1024
    return [config.Video(model=asked.video_model or config.VideoModel.VGA, vram=vram)]


def inputs(asked: Properties, settings: Settings) -> list[config.Input]:
    """Return a tablet where somebody uses a graphics console: its pointer is where theirs is."""
    if not graphics(settings) or asked.pointer is PointerModel.PS2_MOUSE:
        return []
    return [config.Input(type="tablet", bus="usb")]


def rngs(asked: Properties) -> list[config.Rng]:
    """Return the source of random numbers, which every guest has unless its flavor forbids it."""
    if asked.rng_allowed is False:
        return []
    rate = asked.rng_rate_bytes
    return [
        config.Rng(
            model=asked.rng_model or config.RngModel.VIRTIO,
            rate_bytes=rate,
            rate_period=asked.rng_rate_period if rate is not None else None,
            backend=_RANDOM,
        )
    ]


def watchdogs(asked: Properties) -> list[config.Watchdog]:
    """Return a watchdog if one was asked for."""
    if asked.watchdog in (None, WatchdogProperty.DISABLED):
        return []
    return [config.Watchdog(action=config.WatchdogAction(asked.watchdog))]


def panics(facts: HostFacts) -> list[config.Panic]:
    """Return the notifier by which a guest's dying kernel becomes an event."""
    return [config.Panic(model=config.PanicModel.ISA)] if facts.arch == "x86_64" else []

# SPDX-License-Identifier: Apache-2.0
"""From an instance to its domain: a pure function of the instance, the host and the configuration.

The same input gives the same XML, so a domain can be designed again at any time (a HARD
reboot does) and shown before it exists (a plan does). Nothing is read from the disk.

Guests never start with the host: libvirt's autostart is not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif
from compute_agent.virt.libvirt import config, design_devices, metadata
from compute_agent.virt.libvirt.design_devices import DiskRole, GuestDisk
from compute_agent.virt.libvirt.facts import HostFacts, Settings
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.properties import OsType, Properties

__all__ = ["DirectBoot", "DiskRole", "GuestDisk", "HostFacts", "Settings", "check", "design"]

KIB_PER_MIB = 1024


@dataclass(frozen=True, kw_only=True)
class DirectBoot:
    """Files on the host that the guest boots from, past its firmware."""

    kernel: str
    ramdisk: str | None = None
    cmdline: str | None = None


def design(
    instance: Instance,
    *,
    facts: HostFacts,
    settings: Settings,
    paths: InstancePaths,
    disks: Sequence[GuestDisk] = (),
    vifs: Sequence[Vif] | None = None,
    boot: DirectBoot | None = None,
    operation_id: str | None = None,
    generation: int | None = None,
) -> config.Domain:
    """Return the domain of ``instance``.

    :param disks: what to attach; the designer names them
    :param vifs: None for those of ``instance.network_info``
    :param boot: files for a direct kernel boot
    :param operation_id: the operation that makes the domain, for its description
    :param generation: None for the instance's
    :raises InvalidArguments: if a property has a value that it may not have
    :raises UnsupportedOperation: if what is asked for is not offered by this release
    :raises InsufficientResources: if no guest here can be that large
    """
    asked = Properties.of(instance)
    _check_size(instance, facts)
    machine = _machine(asked, facts, settings)
    generation = instance.generation if generation is None else generation
    vcpus = instance.flavor.vcpus
    least = instance.flavor.min_memory_mb
    return config.Domain(
        type=facts.virt_type,
        name=instance.named().name,
        uuid=instance.uuid,
        title=instance.display_name or None,
        metadata=config.Metadata(metadata.describe(instance, generation, operation_id)),
        memory=instance.flavor.memory_mb * KIB_PER_MIB,
        current_memory=None if least is None else least * KIB_PER_MIB,
        vcpus=vcpus,
        cpu_shares=asked.cpu_shares,
        cpu_quota=asked.cpu_quota,
        cpu_period=asked.cpu_period,
        os=_os(machine, facts, boot, asked),
        features=_features(asked, facts),
        cpu=_cpu(vcpus, asked, facts, settings),
        clock=_clock(asked, facts),
        on_poweroff=config.LifecycleAction.DESTROY,
        on_reboot=config.LifecycleAction.RESTART,
        on_crash=config.LifecycleAction.DESTROY,
        devices=_devices(instance, asked, facts, settings, paths, machine, disks, vifs, boot),
    )


def check(instance: Instance, *, facts: HostFacts, settings: Settings) -> None:
    """Say whether ``instance`` can be designed for this host; raises as :func:`design` does."""
    paths = InstancePaths("/", instance.uuid)
    design(instance, facts=facts, settings=settings, paths=paths)


def _check_size(instance: Instance, facts: HostFacts) -> None:
    if instance.flavor.vcpus > facts.max_vcpus:
        raise errors.InsufficientResources(
            f"{instance.flavor.vcpus} vcpus: a guest here has at most {facts.max_vcpus}", retryable=False
        )


def _machine(asked: Properties, facts: HostFacts, settings: Settings) -> str:
    if asked.architecture not in (None, facts.arch):
        raise errors.UnsupportedOperation(f"the image is for {asked.architecture}, the host is {facts.arch}")
    machine = asked.machine or _configured_machine(facts, settings) or facts.default_machine
    if machine not in facts.machines:
        raise errors.InvalidArguments(
            f"hw_machine_type={machine[:64]}: this hypervisor has no such machine type",
            hint="virsh capabilities lists the machine types",
        )
    return machine


def _configured_machine(facts: HostFacts, settings: Settings) -> str | None:
    """Return the configured type; as in OpenStack it may be given as ``arch=type`` too."""
    if settings.machine is None or "=" not in settings.machine:
        return settings.machine
    pairs = (part.split("=", 1) for part in settings.machine.split(",") if "=" in part)
    return {arch.strip(): machine.strip() for arch, machine in pairs}.get(facts.arch)


def _os(machine: str, facts: HostFacts, boot: DirectBoot | None, asked: Properties) -> config.Os:
    made = config.Os(arch=facts.arch, machine=machine, boot_menu=asked.boot_menu)
    if boot is not None:
        made.kernel, made.initrd, made.cmdline = boot.kernel, boot.ramdisk, boot.cmdline or None
    return made


def _features(asked: Properties, facts: HostFacts) -> config.Features:
    return config.Features(
        acpi=facts.arch == "x86_64",
        apic=facts.arch == "x86_64",
        pmu=asked.pmu,
        kvm_hidden=True if asked.hide_hypervisor else None,
    )


def _cpu(vcpus: int, asked: Properties, facts: HostFacts, settings: Settings) -> config.Cpu | None:
    cpu = _cpu_model(facts, settings)
    topology = _topology(vcpus, asked)
    if topology is None:
        return cpu
    cpu = cpu or config.Cpu()
    cpu.sockets, cpu.cores, cpu.threads = topology
    return cpu


def _cpu_model(facts: HostFacts, settings: Settings) -> config.Cpu | None:
    mode = settings.cpu_mode or ("host-model" if facts.virt_type == "kvm" else "none")
    if mode == "none":
        return None
    if mode != config.CpuMode.CUSTOM:
        return config.Cpu(mode=config.CpuMode(mode))
    model = _first_usable(facts, settings)
    return config.Cpu(
        mode=config.CpuMode.CUSTOM,
        match=config.CpuMatch.EXACT,
        model=model,
        fallback=config.CpuFallback.FORBID,
    )


def _first_usable(facts: HostFacts, settings: Settings) -> str:
    for model in settings.cpu_models:
        if not facts.cpu_models or model in facts.cpu_models:
            return model
    raise errors.HypervisorError(
        "none of [libvirt] cpu_models can be used on this host",
        hint="virsh domcapabilities lists the models; cpu_mode=custom needs one of them in cpu_models",
    )


def _topology(vcpus: int, asked: Properties) -> tuple[int, int, int] | None:
    """Return sockets, cores and threads if any was asked for: what is open is filled up to ``vcpus``."""
    if asked.sockets is None and asked.cores is None and asked.threads is None:
        return None
    threads = asked.threads or 1
    rest, left = divmod(vcpus, threads * (asked.sockets or 1) * (asked.cores or 1))
    sockets, cores = asked.sockets or 1, asked.cores or 1
    if asked.sockets is None:
        sockets, rest = rest, 1
    elif asked.cores is None:
        cores, rest = rest, 1
    if left or rest != 1 or not sockets or not cores:
        raise errors.InvalidArguments(
            f"hw:cpu_sockets, hw:cpu_cores and hw:cpu_threads do not make {vcpus} vcpus"
        )
    return sockets, cores, threads


def _clock(asked: Properties, facts: HostFacts) -> config.Clock:
    windows = asked.os_type is OsType.WINDOWS
    offset = config.ClockOffset.LOCALTIME if windows else config.ClockOffset.UTC
    if facts.arch != "x86_64":
        return config.Clock(offset=offset)
    timers = [config.Timer(name=config.TimerName.HPET, present=bool(asked.hpet))]
    if facts.virt_type == "kvm":
        timers = [
            config.Timer(name=config.TimerName.PIT, tick_policy=config.TickPolicy.DELAY),
            config.Timer(name=config.TimerName.RTC, tick_policy=config.TickPolicy.CATCHUP),
            *timers,
        ]
        if windows:
            timers.append(config.Timer(name=config.TimerName.HYPERV, present=True))
    return config.Clock(offset=offset, timers=timers)


def _devices(
    instance: Instance,
    asked: Properties,
    facts: HostFacts,
    settings: Settings,
    paths: InstancePaths,
    machine: str,
    disks: Sequence[GuestDisk],
    vifs: Sequence[Vif] | None,
    boot: DirectBoot | None,
) -> config.Devices:
    attached = design_devices.disks(disks, asked, facts, machine, boots=boot is None)
    ports = 1 if asked.serial_ports is None else asked.serial_ports
    wanted = instance.network_info if vifs is None else vifs
    return config.Devices(
        emulator=facts.emulator,
        disks=attached,
        controllers=design_devices.controllers(attached, machine, settings.pcie_ports),
        interfaces=[design_devices.interface(vif, instance, asked, settings) for vif in wanted],
        serials=design_devices.serials(paths, ports),
        consoles=[config.Console(target_type="serial", port=0)] if ports else [],
        channels=design_devices.channels(asked),
        inputs=design_devices.inputs(asked, settings),
        graphics=design_devices.graphics(settings),
        videos=design_devices.videos(asked, settings),
        watchdogs=design_devices.watchdogs(asked),
        balloon=config.MemBalloon(stats_period=design_devices.BALLOON_STATS_PERIOD_S),
        rngs=design_devices.rngs(asked),
        panics=design_devices.panics(facts),
    )

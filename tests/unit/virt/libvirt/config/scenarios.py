# SPDX-License-Identifier: Apache-2.0
"""Domains for the golden files: what the designer makes, and one that holds every declared field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from compute_agent.model.instance import Instance
from compute_agent.virt.libvirt import config, designer, disks, local_disks, metadata
from compute_agent.virt.libvirt.facts import DiskSettings, HostFacts, Settings
from compute_agent.virt.libvirt.paths import InstancePaths

UUID = "5f0c1a9e-26f0-4d1b-9d5e-0c8d1f2a3b4c"
VIF_ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OPERATION_ID = "7d9f0d0e-3c7a-4f4c-9b53-3d3c3c1e9a11"
PATHS = InstancePaths("/var/lib/compute-agent/instances", UUID)
CACHED = "/var/lib/compute-agent/instances/_base/0123456789abcdef"

QEMU_HOST = HostFacts(
    virt_type="qemu",
    arch="x86_64",
    machines=frozenset({"q35", "pc", "pc-q35-7.2", "pc-i440fx-7.2"}),
    default_machine="q35",
    cpus=2,
)
KVM_HOST = HostFacts(
    virt_type="kvm",
    arch="x86_64",
    machines=QEMU_HOST.machines,
    default_machine="q35",
    emulator="/usr/bin/qemu-system-x86_64",
    has_kvm=True,
    cpus=64,
    cpu_models=frozenset({"Skylake-Server", "Haswell"}),
)
ARM_HOST = HostFacts(
    virt_type="qemu", arch="aarch64", machines=frozenset({"virt", "virt-7.2"}), default_machine="virt"
)
ROOT = designer.GuestDisk(source=PATHS.disk, format="qcow2")


def instance(**changes: Any) -> Instance:
    """Return a small instance with ``changes``; ``properties`` and ``extra_specs`` go where they belong."""
    properties: Mapping[str, str] = changes.pop("properties", {})
    extra_specs: Mapping[str, str] = changes.pop("extra_specs", {})
    plain = {
        "uuid": UUID,
        "name": "instance-00000001",
        "generation": 3,
        "flavor": {"vcpus": 1, "memory_mb": 128, "root_gb": 1, "extra_specs": extra_specs},
        "image": {"url": "file:///srv/images/debian.qcow2", "disk_format": "qcow2", "properties": properties},
        **changes,
    }
    return msgspec.convert(plain, Instance)


def design(given: Instance | None = None, **changes: Any) -> config.Domain:
    """Design ``given`` for a host without KVM, unless ``changes`` say otherwise."""
    arguments: dict[str, Any] = {
        "facts": QEMU_HOST,
        "settings": Settings(),
        "paths": PATHS,
        "disks": [ROOT],
        "operation_id": OPERATION_ID,
        **changes,
    }
    return designer.design(given or instance(), **arguments)


def small() -> config.Domain:
    """The least that a guest is."""
    return design()


def full() -> config.Domain:
    """A guest with all that the designer knows, under KVM."""
    asked = {
        "hw_qemu_guest_agent": "yes",
        "hw_disk_bus": "scsi",
        "hw_cdrom_bus": "sata",
        "hw_video_model": "virtio",
        "hw_video_ram": "16",
        "hw_watchdog_action": "reset",
        "hw_time_hpet": "yes",
        "hw_boot_menu": "true",
        "hw_pmu": "off",
        "img_hide_hypervisor_id": "true",
        "hw_vif_multiqueue_enabled": "yes",
        "hw_serial_port_count": "2",
        "hw_machine_type": "pc-q35-7.2",
        "os_type": "windows",
    }
    given = instance(
        display_name='web <1> & "friends"',
        flavor={
            "vcpus": 4,
            "memory_mb": 2048,
            "min_memory_mb": 1024,
            "root_gb": 20,
            "extra_specs": {
                "hw:cpu_sockets": "2",
                "hw:cpu_threads": "2",
                "hw_rng:rate_bytes": "2048",
                "hw_rng:rate_period": "1000",
                "quota:cpu_shares": "2048",
                "quota:cpu_quota": "20000",
                "quota:cpu_period": "10000",
                "quota:disk_total_iops_sec": "500",
                "quota:disk_read_bytes_sec": "1048576",
                "trait:HW_CPU_X86_AVX2": "required",
            },
        },
        image={"url": "https://images.example.org/web.qcow2", "disk_format": "qcow2", "properties": asked},
        network_info=[
            {"id": VIF_ID, "address": "52:54:00:12:34:56", "bridge": "br0", "mtu": 1450},
            {"id": "port-2", "address": "52:54:00:12:34:57", "bridge": "br1", "model": "e1000"},
        ],
        user_data="c2VjcmV0",
    )
    disks = [
        designer.GuestDisk(
            source=PATHS.config_drive, format="raw", role=designer.DiskRole.CONFIG_DRIVE, device="cdrom"
        ),
        designer.GuestDisk(source=PATHS.ephemeral(0), format="raw", role=designer.DiskRole.EPHEMERAL),
        designer.GuestDisk(
            source="/dev/mapper/volume-1",
            format="raw",
            role=designer.DiskRole.VOLUME,
            block=True,
            bus="virtio",
            target="/dev/vdc",
            serial="volume-1",
            cache="none",
            discard=True,
        ),
        ROOT,
    ]
    settings = Settings(vnc_listen="127.0.0.1", spice_listen="::1")
    return design(given, facts=KVM_HOST, settings=settings, disks=disks)


def direct_boot() -> config.Domain:
    """A guest that boots a kernel from the host, with a processor model by name."""
    boot = designer.DirectBoot(kernel=f"{CACHED}.k", ramdisk=f"{CACHED}.r", cmdline='console=ttyS0 a="<&>"')
    settings = Settings(cpu_mode="custom", cpu_models=("EPYC", "Haswell"), machine="x86_64=pc,aarch64=virt")
    return design(facts=KVM_HOST, settings=settings, boot=boot)


def arm() -> config.Domain:
    """A guest of another architecture."""
    return design(facts=ARM_HOST)


def everything() -> config.Domain:
    """Every declared field, whether the designer uses it yet or not."""
    described = metadata.describe(instance(), 3, OPERATION_ID)
    return config.Domain(
        type="kvm",
        id=7,
        name="everything",
        uuid=UUID,
        title="a title",
        description="a description",
        metadata=config.Metadata(described),
        memory=262144,
        current_memory=131072,
        vcpus=8,
        cpu_shares=1024,
        cpu_quota=50000,
        cpu_period=100000,
        os=_everything_of_os(),
        features=config.Features(
            acpi=True,
            apic=True,
            pae=True,
            kvm_hidden=True,
            pmu=True,
            vmport=False,
            smm=True,
            ioapic=config.IoApicDriver.KVM,
        ),
        cpu=config.Cpu(
            mode=config.CpuMode.CUSTOM,
            match=config.CpuMatch.EXACT,
            model="Haswell",
            fallback=config.CpuFallback.FORBID,
            sockets=2,
            dies=1,
            cores=2,
            threads=2,
        ),
        clock=config.Clock(
            offset=config.ClockOffset.UTC,
            timers=[
                config.Timer(name=config.TimerName.PIT, tick_policy=config.TickPolicy.DELAY),
                config.Timer(name=config.TimerName.HPET, present=False),
            ],
        ),
        on_poweroff=config.LifecycleAction.DESTROY,
        on_reboot=config.LifecycleAction.RESTART,
        on_crash=config.LifecycleAction.PRESERVE,
        devices=_everything_of_devices(),
    )


def _everything_of_os() -> config.Os:
    return config.Os(
        firmware=config.Firmware.EFI,
        arch="x86_64",
        machine="q35",
        loader="/usr/share/OVMF/OVMF_CODE.fd",
        loader_read_only=True,
        loader_secure=True,
        loader_type="pflash",
        nvram="/var/lib/compute-agent/nvram",
        nvram_template="/usr/share/OVMF/OVMF_VARS.fd",
        kernel="/boot/kernel",
        initrd="/boot/initrd",
        cmdline="quiet",
        boot_devices=["hd", "network"],
        boot_menu=True,
        serial_bios=True,
        smbios_mode="sysinfo",
    )


def _everything_of_devices() -> config.Devices:
    return config.Devices(
        emulator="/usr/bin/qemu-system-x86_64",
        disks=[_file_disk(), *_network_disks()],
        controllers=[config.Controller(type="scsi", index=0, model="virtio-scsi")],
        interfaces=[_filtered_interface(), *_other_interfaces()],
        serials=[
            config.Serial(log_file="/var/log/console.log", log_append=True, target_type="isa-serial", port=0),
            config.Serial(
                type=config.CharType.TCP,
                source_mode="bind",
                source_host="127.0.0.1",
                source_service=4555,
                port=1,
            ),
            config.Serial(type=config.CharType.FILE, source_path="/var/log/port2.log", port=2),
        ],
        consoles=[config.Console(target_type="serial", port=0)],
        channels=[
            config.Channel(
                source_mode="bind",
                source_path="/run/ga.sock",
                name="org.qemu.guest_agent.0",
                state="connected",
            )
        ],
        inputs=[config.Input(type="tablet", bus="usb")],
        graphics=[
            config.Graphics(port=-1, auto_port=True, listen="127.0.0.1", keymap="de"),
            config.Graphics(type=config.GraphicsType.SPICE, port=5901, tls_port=5902, auto_port=False),
        ],
        videos=[config.Video(model=config.VideoModel.QXL, vram=65536, heads=1)],
        watchdogs=[config.Watchdog(action=config.WatchdogAction.PAUSE)],
        balloon=config.MemBalloon(stats_period=10),
        rngs=[config.Rng(rate_bytes=1024, rate_period=1000, backend="/dev/urandom", backend_model="random")],
        panics=[config.Panic(model=config.PanicModel.ISA)],
    )


def _file_disk() -> config.Disk:
    return config.Disk(
        device=config.DiskDevice.DISK,
        driver="qemu",
        format="qcow2",
        cache=config.DiskCache.NONE,
        io=config.DiskIo.NATIVE,
        discard=config.DiskDiscard.UNMAP,
        source_file="/var/lib/disk",
        target="sda",
        bus=config.DiskBus.SCSI,
        read_bytes=1000000,
        write_bytes=2000000,
        read_iops=100,
        write_iops=200,
        read_only=True,
        shareable=True,
        serial="serial-1",
        alias="ua-root",
        address=config.DiskAddress(controller=0, bus=0, target=0, unit=1),
    )


def _network_disks() -> list[config.Disk]:
    nbd = config.Disk(
        type=config.DiskType.NETWORK,
        source_protocol="nbd",
        source_name="export",
        source_hosts=[config.DiskSourceHost(transport="unix", socket="/run/nbd.sock")],
        source_tls=True,
        reconnect_s=60,
        target="vda",
        bus=config.DiskBus.VIRTIO,
        total_bytes=1000000,
        total_iops=100,
        boot_order=2,
    )
    rbd = config.Disk(
        type=config.DiskType.NETWORK,
        source_protocol="rbd",
        source_name="pool/volume",
        source_hosts=[config.DiskSourceHost(name="192.0.2.1", port=6789)],
        target="vdb",
        bus=config.DiskBus.VIRTIO,
    )
    iscsi = config.Disk(
        type=config.DiskType.NETWORK,
        source_protocol="iscsi",
        source_name="iqn.2010-10.org.openstack:volume-1/1",
        source_hosts=[config.DiskSourceHost(name="192.0.2.2", port=3260)],
        initiator="iqn.2025-01.org.compute-agent:host",
        auth_username="user",
        auth_secret_type="iscsi",
        auth_secret="11111111-2222-3333-4444-555555555555",
        encryption="luks",
        encryption_secret_type="passphrase",
        encryption_secret="66666666-7777-8888-9999-aaaaaaaaaaaa",
        target="vdc",
        bus=config.DiskBus.VIRTIO,
    )
    return [nbd, rbd, iscsi]


def _filtered_interface() -> config.Interface:
    parameter = config.FilterParameter(name="IP", value="10.0.0.5")
    return config.Interface(
        mac="52:54:00:12:34:56",
        bridge="br0",
        virtual_port="openvswitch",
        virtual_port_id=VIF_ID,
        target="tap0a1b2c3d-4e",
        model="virtio",
        driver="vhost",
        queues=4,
        mtu=1450,
        filter=config.FilterRef(filter="compute-agent-0a1b2c3d", parameters=[parameter]),
        boot_order=1,
        alias="ua-net",
    )


def _other_interfaces() -> list[config.Interface]:
    return [
        config.Interface(
            type=config.InterfaceType.DIRECT, source_device="eth0", source_mode="bridge", target="macvtap0"
        ),
        config.Interface(type=config.InterfaceType.ETHERNET, target="tap0", managed=False),
    ]


def disks_of_this_host() -> config.Domain:
    """Every kind of disk that is made on the host, with every option about disks; the root is encrypted."""
    given = instance(
        flavor={"vcpus": 1, "memory_mb": 128, "root_gb": 1, "ephemeral_gb": 2, "swap_mb": 64},
        block_device_mapping=[
            {
                "source_type": "image",
                "boot_index": 0,
                "encryption": {"passphrase": "secret"},
                "disk_bus": "scsi",
            },
            {"source_type": "blank", "size_gb": 1, "mountpoint": "/dev/vdf"},
            {"source_type": "image", "image": {"url": "file:///srv/tools.iso"}, "device_type": "cdrom"},
        ],
    )
    modes = DiskSettings(
        format="raw",
        cache={"file": "none", "block": "writeback"},
        io="native",
        discard="unmap",
        detect_zeroes="unmap",
    )
    settings = Settings(disks=modes)
    made = local_disks.wanted(given, settings)
    return design(given, settings=settings, disks=[disks.guest_disk(disk, PATHS, settings) for disk in made])


SCENARIOS: dict[str, Callable[[], config.Domain]] = {
    "small": small,
    "full": full,
    "direct_boot": direct_boot,
    "arm": arm,
    "disks_of_this_host": disks_of_this_host,
    "everything": everything,
}

# SPDX-License-Identifier: Apache-2.0
"""What the designer has to know of the host and of the configuration, as plain values.

With these two and an instance the design of a domain is a pure function, which a test can
call without a hypervisor.
"""

import dataclasses
from collections.abc import Mapping
from typing import Self

from oslo_config import cfg

from compute_agent.model import errors
from compute_agent.virt.libvirt.config import element

Q35 = "q35"
_DEFAULT_MACHINE = {"x86_64": Q35, "aarch64": "virt"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What libvirt tells of the hypervisor.

    :param machines: every machine type it knows for ``arch``, aliases too
    :param default_machine: what a guest gets when neither its image nor the configuration names one
    :param cpus: processors of the host
    :param max_vcpus: the most that a guest may have
    :param cpu_models: models by name that can be used here; empty when that was not asked
    """

    virt_type: str
    arch: str
    machines: frozenset[str]
    default_machine: str
    emulator: str | None = None
    has_kvm: bool = False
    cpus: int = 1
    max_vcpus: int = 255
    cpu_models: frozenset[str] = frozenset()

    @classmethod
    def from_capabilities(cls, xml: str, virt_type: str) -> Self:
        """Read libvirt's ``getCapabilities()``.

        :param virt_type: ``kvm`` or ``qemu``, as configured
        :raises HypervisorError: if it is not libvirt's XML, or the host's architecture has no
            hypervisor of that type
        """
        try:
            root = element.parse(xml)
        except element.XmlError as error:
            raise errors.HypervisorError(f"the hypervisor's capabilities can't be read: {error}") from None
        arch = root.findtext("host/cpu/arch") or "x86_64"
        domains = [
            (guest, domain)
            for guest in root.findall("guest")
            if guest.findtext("os_type") == "hvm"
            for domain in guest.findall(f"arch[@name='{arch}']/domain")
        ]
        chosen = next(((g, d) for g, d in domains if d.get("type") == virt_type), None)
        if chosen is None:
            raise errors.HypervisorError(
                f"the hypervisor offers no {virt_type} guests of {arch}",
                hint="install QEMU for the host's architecture; kvm needs a working /dev/kvm",
            )
        guest, domain = chosen
        holder = guest.find(f"arch[@name='{arch}']")
        assert holder is not None
        found = domain.findall("machine") or holder.findall("machine")
        machines = {machine.text or "" for machine in found}
        machines |= {name for machine in found if (name := machine.get("canonical"))}
        usual = _DEFAULT_MACHINE.get(arch, "")
        most = [int(m) for machine in found if (m := machine.get("maxCpus"))]
        return cls(
            virt_type=virt_type,
            arch=arch,
            machines=frozenset(machines),
            default_machine=usual if usual in machines else (found[0].text or "") if found else "",
            emulator=domain.findtext("emulator") or holder.findtext("emulator"),
            has_kvm=any(d.get("type") == "kvm" for _, d in domains),
            cpus=max(1, len(root.findall("host/topology/cells/cell/cpus/cpu"))),
            max_vcpus=max(most, default=255),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiskSettings:
    """The options about disks.

    :param format: of the disks that are made from now on
    :param overlay: root disks are overlays on the cached image
    :param preallocate: disks take all their room when they are made
    :param file_system: of ephemeral disks; None leaves them blank
    :param encrypt: all disks that are made on this host
    :param cache: modes by kind of disk: ``file``, ``block``, ``network``
    """

    format: str = "qcow2"
    overlay: bool = True
    preallocate: bool = False
    file_system: str | None = "ext4"
    encrypt: bool = False
    cache: Mapping[str, str] = dataclasses.field(default_factory=dict)
    io: str | None = None
    discard: str | None = None
    detect_zeroes: str | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Read them from the configuration."""
        wanted = conf.default_ephemeral_format
        return cls(
            format="qcow2" if conf.libvirt.images_type == "qcow2" else "raw",
            overlay=conf.libvirt.images_type == "qcow2" and conf.use_cow_images,
            preallocate=conf.preallocate_images == "space",
            file_system=None if wanted == "none" else wanted,
            encrypt=conf.ephemeral_storage_encryption.enabled,
            cache=dict(pair.split("=", 1) for pair in conf.libvirt.disk_cachemodes if "=" in pair),
            io=conf.libvirt.disk_io_mode,
            discard=conf.libvirt.hw_disk_discard,
            detect_zeroes=conf.libvirt.disk_detect_zeroes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that a design depends on."""

    virt_type: str = "qemu"
    cpu_mode: str | None = None
    cpu_models: tuple[str, ...] = ()
    machine: str | None = None
    vnc_listen: str | None = None
    """None: guests get no VNC console"""
    spice_listen: str | None = None
    disks: DiskSettings = DiskSettings()
    filters: bool = False
    """VIFs with port_filter are behind a filter of ours"""
    pcie_ports: int = 0
    """slots for devices, those that come later too; 0: as many as libvirt thinks fit"""

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Read them from the configuration."""
        return cls(
            virt_type=conf.libvirt.virt_type,
            cpu_mode=conf.libvirt.cpu_mode,
            cpu_models=tuple(conf.libvirt.cpu_models),
            machine=conf.libvirt.hw_machine_type,
            filters=conf.libvirt.filter_driver == "nwfilter",
            pcie_ports=conf.libvirt.num_pcie_ports,
            vnc_listen=conf.vnc.server_listen if conf.vnc.enabled else None,
            spice_listen=conf.spice.server_listen if conf.spice.enabled else None,
            disks=DiskSettings.from_conf(conf),
        )

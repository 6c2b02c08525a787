# SPDX-License-Identifier: Apache-2.0
"""What the designer has to know of the host and of the configuration, as plain values.

With these two and an instance the design of a domain is a pure function, which a test can
call without a hypervisor.
"""

import dataclasses
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
class Settings:
    """The options that a design depends on."""

    virt_type: str = "qemu"
    cpu_mode: str | None = None
    cpu_models: tuple[str, ...] = ()
    machine: str | None = None
    vnc_listen: str | None = None
    """None: guests get no VNC console"""
    spice_listen: str | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Read them from the configuration."""
        return cls(
            virt_type=conf.libvirt.virt_type,
            cpu_mode=conf.libvirt.cpu_mode,
            cpu_models=tuple(conf.libvirt.cpu_models),
            machine=conf.libvirt.hw_machine_type,
            vnc_listen=conf.vnc.server_listen if conf.vnc.enabled else None,
            spice_listen=conf.spice.server_listen if conf.spice.enabled else None,
        )

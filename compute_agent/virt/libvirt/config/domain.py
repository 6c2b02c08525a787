# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""``<domain>``: a whole guest."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.cpu import Cpu
from compute_agent.virt.libvirt.config.devices import Devices
from compute_agent.virt.libvirt.config.element import Element, child, prop
from compute_agent.virt.libvirt.config.os import Os
from compute_agent.virt.libvirt.config.platform import Clock, Features, Metadata


class LifecycleAction(enum.StrEnum):
    """What libvirt does when the guest ends in some way."""

    DESTROY = "destroy"
    RESTART = "restart"
    PRESERVE = "preserve"
    COREDUMP_DESTROY = "coredump-destroy"
    COREDUMP_RESTART = "coredump-restart"


@dataclasses.dataclass(kw_only=True)
class Domain(Element):
    """A guest. :attr:`memory` is the most that it can have, :attr:`current_memory` what it gets, in KiB."""

    TAG: ClassVar[str] = "domain"

    type: str = prop("@type", default="qemu")
    id: int | None = prop("@id")
    name: str = prop("name", default="")
    uuid: str | None = prop("uuid")
    title: str | None = prop("title")
    description: str | None = prop("description")
    metadata: Metadata | None = child("metadata", Metadata)
    memory: int = prop("memory", default=0, unit="KiB")
    current_memory: int | None = prop("currentMemory", unit="KiB")
    vcpus: int = prop("vcpu", default=1)
    cpu_shares: int | None = prop("cputune/shares")
    cpu_quota: int | None = prop("cputune/quota")
    cpu_period: int | None = prop("cputune/period")
    os: Os | None = child("os", Os)
    features: Features | None = child("features", Features)
    cpu: Cpu | None = child("cpu", Cpu)
    clock: Clock | None = child("clock", Clock)
    on_poweroff: LifecycleAction | None = prop("on_poweroff")
    on_reboot: LifecycleAction | None = prop("on_reboot")
    on_crash: LifecycleAction | None = prop("on_crash")
    devices: Devices | None = child("devices", Devices)

# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""``<os>``: what the guest boots from."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.element import Element, prop, texts


class BootDevice(enum.StrEnum):
    """A kind of device to boot from; disks of ours have a ``<boot order>`` instead."""

    DISK = "hd"
    CDROM = "cdrom"
    NETWORK = "network"
    FLOPPY = "fd"


class Firmware(enum.StrEnum):
    """The firmware that libvirt is to choose by itself. None is the machine's own (SeaBIOS)."""

    BIOS = "bios"
    EFI = "efi"


@dataclasses.dataclass(kw_only=True)
class Os(Element):
    """Machine, firmware and direct kernel boot. Paths are the host's."""

    TAG: ClassVar[str] = "os"

    firmware: Firmware | None = prop("@firmware")
    type: str = prop("type", default="hvm")
    arch: str | None = prop("type/@arch")
    machine: str | None = prop("type/@machine")
    loader: str | None = prop("loader")
    loader_read_only: bool | None = prop("loader/@readonly")
    loader_secure: bool | None = prop("loader/@secure")
    loader_type: str | None = prop("loader/@type")
    nvram: str | None = prop("nvram")
    nvram_template: str | None = prop("nvram/@template")
    kernel: str | None = prop("kernel")
    initrd: str | None = prop("initrd")
    cmdline: str | None = prop("cmdline")
    boot_devices: list[str] = texts("boot/@dev")
    boot_menu: bool | None = prop("bootmenu/@enable")
    serial_bios: bool | None = prop("bios/@useserial")
    smbios_mode: str | None = prop("smbios/@mode")

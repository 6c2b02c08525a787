# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""``<disk>``: a disk, an optical drive or a floppy."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.element import Element, child, children, prop


class DiskType(enum.StrEnum):
    """What the disk is on the host."""

    FILE = "file"
    BLOCK = "block"
    NETWORK = "network"


class DiskDevice(enum.StrEnum):
    """What the guest takes it for."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"
    LUN = "lun"


class DiskBus(enum.StrEnum):
    """What it hangs on."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"
    USB = "usb"
    FDC = "fdc"


class DiskCache(enum.StrEnum):
    """The host's page cache."""

    NONE = "none"
    WRITEBACK = "writeback"
    WRITETHROUGH = "writethrough"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"


class DiskDiscard(enum.StrEnum):
    """What becomes of blocks that the guest gives back."""

    UNMAP = "unmap"
    IGNORE = "ignore"


class DiskZeroes(enum.StrEnum):
    """What becomes of zeros that the guest writes."""

    OFF = "off"
    ON = "on"
    UNMAP = "unmap"


class DiskIo(enum.StrEnum):
    """How QEMU reads and writes."""

    NATIVE = "native"
    THREADS = "threads"
    IO_URING = "io_uring"


@dataclasses.dataclass(kw_only=True)
class DiskAddress(Element):
    """``<address type="drive">``: where on its bus."""

    TAG: ClassVar[str] = "address"

    type: str = prop("@type", default="drive")
    controller: int | None = prop("@controller")
    bus: int | None = prop("@bus")
    target: int | None = prop("@target")
    unit: int | None = prop("@unit")


@dataclasses.dataclass(kw_only=True)
class DiskSourceHost(Element):
    """``<host>``: a server of a network disk."""

    TAG: ClassVar[str] = "host"

    name: str | None = prop("@name")
    port: int | None = prop("@port")
    transport: str | None = prop("@transport")
    socket: str | None = prop("@socket")


@dataclasses.dataclass(kw_only=True)
class Disk(Element):
    """One disk. Of the sources, the one of its :attr:`type` is set. ``iops`` and bytes are per second.

    Secrets stand here as libvirt's uuids of them, never as what they are.
    """

    TAG: ClassVar[str] = "disk"

    type: DiskType = prop("@type", default=DiskType.FILE)
    device: DiskDevice | None = prop("@device")
    driver: str | None = prop("driver/@name")
    format: str | None = prop("driver/@type")
    cache: DiskCache | None = prop("driver/@cache")
    io: DiskIo | None = prop("driver/@io")
    discard: DiskDiscard | None = prop("driver/@discard")
    detect_zeroes: DiskZeroes | None = prop("driver/@detect_zeroes")
    source_file: str | None = prop("source/@file")
    source_device: str | None = prop("source/@dev")
    source_protocol: str | None = prop("source/@protocol")
    source_name: str | None = prop("source/@name")
    source_tls: bool | None = prop("source/@tls")
    source_hosts: list[DiskSourceHost] = children("source/host", DiskSourceHost)
    initiator: str | None = prop("source/initiator/iqn/@name")
    auth_username: str | None = prop("source/auth/@username")
    auth_secret_type: str | None = prop("source/auth/secret/@type")
    auth_secret: str | None = prop("source/auth/secret/@uuid")
    encryption: str | None = prop("source/encryption/@format")
    encryption_secret_type: str | None = prop("source/encryption/secret/@type")
    encryption_secret: str | None = prop("source/encryption/secret/@uuid")
    reconnect_s: int | None = prop("source/reconnect/@delay")
    target: str | None = prop("target/@dev")
    bus: DiskBus | None = prop("target/@bus")
    total_bytes: int | None = prop("iotune/total_bytes_sec")
    read_bytes: int | None = prop("iotune/read_bytes_sec")
    write_bytes: int | None = prop("iotune/write_bytes_sec")
    total_iops: int | None = prop("iotune/total_iops_sec")
    read_iops: int | None = prop("iotune/read_iops_sec")
    write_iops: int | None = prop("iotune/write_iops_sec")
    read_only: bool = prop("readonly", default=False)
    shareable: bool = prop("shareable", default=False)
    serial: str | None = prop("serial")
    boot_order: int | None = prop("boot/@order")
    alias: str | None = prop("alias/@name")
    address: DiskAddress | None = child("address[@type='drive']", DiskAddress)

# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""What image properties (``hw_*``) and flavor extra specs (``hw:*``) ask of the machine.

OpenStack's names and values. Each is checked against what it may be; the flavor's word
goes before the image's. What would change the machine and is not offered is refused by
name: a guest that silently lacks what was asked for is worse than none. Names of others'
(``trait:``, ``resources:``, ``os_distro`` and the like) are left to them.
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Self

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.vif import VifModel
from compute_agent.virt.libvirt.config import DiskBus, RngModel, VideoModel

_TRUE = frozenset({"yes", "true", "on", "1", "y", "t"})
_FALSE = frozenset({"no", "false", "off", "0", "n", "f"})


class PointerModel(enum.StrEnum):
    """The pointing device."""

    USB_TABLET = "usbtablet"
    PS2_MOUSE = "ps2mouse"


class WatchdogProperty(enum.StrEnum):
    """What the watchdog does; disabled means that there is none."""

    DISABLED = "disabled"
    RESET = "reset"
    POWEROFF = "poweroff"
    PAUSE = "pause"
    NONE = "none"


class OsType(enum.StrEnum):
    """The guest's operating system, as far as it matters to the machine."""

    LINUX = "linux"
    WINDOWS = "windows"


def _known_as(*names: str, low: int | None = None, high: int | None = None, default: Any = None) -> Any:
    """Declare a property by its names: those with ``:`` stand in a flavor, the others at an image."""
    return dataclasses.field(default=default, metadata={"names": names, "low": low, "high": high})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Properties:
    """What was asked for; None where nothing was."""

    machine: str | None = _known_as("hw_machine_type", "hw:machine_type")
    architecture: str | None = _known_as("hw_architecture", "architecture")
    disk_bus: DiskBus | None = _known_as("hw_disk_bus")
    ephemeral_encryption: bool | None = _known_as("hw_ephemeral_encryption", "hw:ephemeral_encryption")
    cdrom_bus: DiskBus | None = _known_as("hw_cdrom_bus")
    vif_model: VifModel | None = _known_as("hw_vif_model")
    multiqueue: bool | None = _known_as("hw_vif_multiqueue_enabled", "hw:vif_multiqueue_enabled")
    video_model: VideoModel | None = _known_as("hw_video_model")
    video_ram_mb: int | None = _known_as("hw_video_ram", low=1, high=512)
    pointer: PointerModel | None = _known_as("hw_pointer_model")
    guest_agent: bool | None = _known_as("hw_qemu_guest_agent")
    rng_model: RngModel | None = _known_as("hw_rng_model")
    rng_allowed: bool | None = _known_as("hw_rng:allowed")
    rng_rate_bytes: int | None = _known_as("hw_rng:rate_bytes", low=1, high=2**31 - 1)
    rng_rate_period: int | None = _known_as("hw_rng:rate_period", low=1, high=2**31 - 1)
    watchdog: WatchdogProperty | None = _known_as("hw_watchdog_action", "hw:watchdog_action")
    serial_ports: int | None = _known_as("hw_serial_port_count", "hw:serial_port_count", low=0, high=4)
    boot_menu: bool | None = _known_as("hw_boot_menu", "hw:boot_menu")
    hpet: bool | None = _known_as("hw_time_hpet")
    pmu: bool | None = _known_as("hw_pmu", "hw:pmu")
    hide_hypervisor: bool | None = _known_as("img_hide_hypervisor_id", "hw:hide_hypervisor_id")
    os_type: OsType | None = _known_as("os_type")
    sockets: int | None = _known_as("hw_cpu_sockets", "hw:cpu_sockets", low=1, high=4096)
    cores: int | None = _known_as("hw_cpu_cores", "hw:cpu_cores", low=1, high=4096)
    threads: int | None = _known_as("hw_cpu_threads", "hw:cpu_threads", low=1, high=4096)
    cpu_shares: int | None = _known_as("quota:cpu_shares", low=2, high=262144)
    cpu_quota: int | None = _known_as("quota:cpu_quota", low=1000, high=2**44)
    cpu_period: int | None = _known_as("quota:cpu_period", low=1000, high=1_000_000)
    disk_total_bytes: int | None = _known_as("quota:disk_total_bytes_sec", low=0, high=2**60)
    disk_read_bytes: int | None = _known_as("quota:disk_read_bytes_sec", low=0, high=2**60)
    disk_write_bytes: int | None = _known_as("quota:disk_write_bytes_sec", low=0, high=2**60)
    disk_total_iops: int | None = _known_as("quota:disk_total_iops_sec", low=0, high=2**60)
    disk_read_iops: int | None = _known_as("quota:disk_read_iops_sec", low=0, high=2**60)
    disk_write_iops: int | None = _known_as("quota:disk_write_iops_sec", low=0, high=2**60)

    @classmethod
    def of(cls, instance: Instance) -> Self:
        """Read the properties of ``instance``'s image and flavor.

        :raises InvalidArguments: if a value is not one that its property may have
        :raises UnsupportedOperation: if a property asks for what this release does not offer
        """
        values: dict[str, Any] = {}
        for name, text in _given(instance):
            if name in _FIELDS:
                field, kind = _FIELDS[name]
                values[field.name] = _parse(name, text, kind, field.metadata)
            else:
                _check_declined(name, text)
        return cls(**values)


_HINTS = typing.get_type_hints(Properties)
_FIELDS = {
    name: (field, next(kind for kind in typing.get_args(_HINTS[field.name]) if kind is not types.NoneType))
    for field in dataclasses.fields(Properties)
    for name in field.metadata["names"]
}

_OURS = ("hw_", "hw:", "hw_video:", "quota:")
HARMLESS: Mapping[str, frozenset[str]] = {
    "hw_firmware_type": frozenset({"bios"}),
    "hw_firmware_stateless": _FALSE,
    "hw_ephemeral_encryption_format": frozenset({"luks"}),
    "hw:ephemeral_encryption_format": frozenset({"luks"}),
    "hw_cpu_policy": frozenset({"shared"}),
    "hw:cpu_policy": frozenset({"shared"}),
    "hw_mem_page_size": frozenset({"small", "any"}),
    "hw:mem_page_size": frozenset({"small", "any"}),
    "hw_numa_nodes": frozenset({"1"}),
    "hw:numa_nodes": frozenset({"1"}),
    "hw_mem_encryption": _FALSE,
    "hw:mem_encryption": _FALSE,
    "hw_locked_memory": _FALSE,
    "hw:locked_memory": _FALSE,
    "hw_rescue_bus": frozenset(DiskBus),
    "hw_rescue_device": frozenset({"disk", "cdrom", "floppy"}),
    "os_secure_boot": frozenset({"disabled", "optional"}),
    "os:secure_boot": frozenset({"disabled", "optional"}),
}
"""Properties of what is not offered yet, with the values that ask for nothing."""


def names() -> frozenset[str]:
    """Return every property that is understood."""
    return frozenset(_FIELDS)


def _given(instance: Instance) -> Iterator[tuple[str, str]]:
    """Give the properties, the image's first: what comes later wins."""
    if instance.image is not None:
        yield from ((name, text) for name, text in instance.image.properties.items() if ":" not in name)
    yield from ((name, text) for name, text in instance.flavor.extra_specs.items() if ":" in name)


def _check_declined(name: str, text: str) -> None:
    allowed = HARMLESS.get(name)
    if allowed is not None and text.strip().lower() in allowed:
        return
    if allowed is not None or name.startswith(_OURS):
        raise errors.UnsupportedOperation(
            f"{name}={text[:64]} is not offered by this driver",
            hint="remove the property from the image or the flavor, or place the instance elsewhere",
        )


def _parse(name: str, text: str, kind: Any, limits: Mapping[str, Any]) -> Any:
    text = text.strip()
    if kind is bool:
        return _parse_bool(name, text)
    if kind is int:
        return _parse_int(name, text, limits["low"], limits["high"])
    if issubclass(kind, enum.Enum):
        return _parse_enum(name, text, kind)
    return text


def _parse_bool(name: str, text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise _wrong(name, text, "yes or no")


def _parse_int(name: str, text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high:
        return int(text)
    raise _wrong(name, text, f"a number from {low} to {high}")


def _parse_enum(name: str, text: str, kind: type[enum.Enum]) -> enum.Enum:
    try:
        return kind(text.lower())
    except ValueError:
        raise _wrong(name, text, ", ".join(sorted(str(member) for member in kind))) from None


def _wrong(name: str, text: str, expected: str) -> errors.InvalidArguments:
    return errors.InvalidArguments(f"{name}={text[:64]}: expected {expected}")

# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""The small devices: balloon, random numbers, watchdog, panic notifier, input."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.element import Element, prop


class BalloonModel(enum.StrEnum):
    """The memory balloon."""

    VIRTIO = "virtio"
    NONE = "none"


@dataclasses.dataclass(kw_only=True)
class MemBalloon(Element):
    """``<memballoon>``: takes memory back from the guest. ``stats_period`` in seconds."""

    TAG: ClassVar[str] = "memballoon"

    model: BalloonModel = prop("@model", default=BalloonModel.VIRTIO)
    stats_period: int | None = prop("stats/@period")


class RngModel(enum.StrEnum):
    """The random number generator."""

    VIRTIO = "virtio"


@dataclasses.dataclass(kw_only=True)
class Rng(Element):
    """``<rng>``: random numbers for the guest; at most ``rate_bytes`` per ``rate_period`` milliseconds."""

    TAG: ClassVar[str] = "rng"

    model: RngModel = prop("@model", default=RngModel.VIRTIO)
    rate_bytes: int | None = prop("rate/@bytes")
    rate_period: int | None = prop("rate/@period")
    backend: str | None = prop("backend")
    backend_model: str = prop("backend/@model", default="random")


class WatchdogModel(enum.StrEnum):
    """The watchdog."""

    I6300ESB = "i6300esb"


class WatchdogAction(enum.StrEnum):
    """What happens when the guest no longer feeds it."""

    RESET = "reset"
    POWEROFF = "poweroff"
    PAUSE = "pause"
    NONE = "none"


@dataclasses.dataclass(kw_only=True)
class Watchdog(Element):
    """``<watchdog>``."""

    TAG: ClassVar[str] = "watchdog"

    model: WatchdogModel = prop("@model", default=WatchdogModel.I6300ESB)
    action: WatchdogAction = prop("@action", default=WatchdogAction.RESET)


class PanicModel(enum.StrEnum):
    """How the guest tells that its kernel has died."""

    ISA = "isa"
    PVPANIC = "pvpanic"


@dataclasses.dataclass(kw_only=True)
class Panic(Element):
    """``<panic>``: tells the host when the guest's kernel dies."""

    TAG: ClassVar[str] = "panic"

    model: PanicModel | None = prop("@model")


@dataclasses.dataclass(kw_only=True)
class Input(Element):
    """``<input>``: such as a tablet, whose pointer is where a remote console's is."""

    TAG: ClassVar[str] = "input"

    type: str = prop("@type", default="tablet")
    bus: str | None = prop("@bus")

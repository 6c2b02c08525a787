# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""``<devices>``: all that hangs on the machine."""

import dataclasses
from typing import ClassVar

from compute_agent.virt.libvirt.config.disk import Disk
from compute_agent.virt.libvirt.config.display import Graphics, Video
from compute_agent.virt.libvirt.config.element import REQUIRED, Element, child, children, prop
from compute_agent.virt.libvirt.config.interface import Interface
from compute_agent.virt.libvirt.config.misc import Input, MemBalloon, Panic, Rng, Watchdog
from compute_agent.virt.libvirt.config.serial import Channel, Console, Serial


@dataclasses.dataclass(kw_only=True)
class Controller(Element):
    """``<controller>``: what devices hang on."""

    TAG: ClassVar[str] = "controller"

    type: str = prop("@type", default=REQUIRED)
    index: int | None = prop("@index")
    model: str | None = prop("@model")


@dataclasses.dataclass(kw_only=True)
class Devices(Element):
    """The devices, by kind. :attr:`emulator` is QEMU's path; None lets libvirt choose."""

    TAG: ClassVar[str] = "devices"

    emulator: str | None = prop("emulator")
    disks: list[Disk] = children("disk", Disk)
    controllers: list[Controller] = children("controller", Controller)
    interfaces: list[Interface] = children("interface", Interface)
    serials: list[Serial] = children("serial", Serial)
    consoles: list[Console] = children("console", Console)
    channels: list[Channel] = children("channel", Channel)
    inputs: list[Input] = children("input", Input)
    graphics: list[Graphics] = children("graphics", Graphics)
    videos: list[Video] = children("video", Video)
    watchdogs: list[Watchdog] = children("watchdog", Watchdog)
    balloon: MemBalloon | None = child("memballoon", MemBalloon)
    rngs: list[Rng] = children("rng", Rng)
    panics: list[Panic] = children("panic", Panic)

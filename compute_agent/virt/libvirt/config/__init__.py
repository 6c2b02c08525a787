# SPDX-License-Identifier: Apache-2.0
"""Libvirt's domain XML as declared types: one class both builds and parses its element.

A class per element, a module per group of them; :mod:`.element` is the layer below. New
devices get a class here, are listed in :class:`Devices`, and stand in a golden file.
"""

from compute_agent.virt.libvirt.config.cpu import Cpu, CpuFallback, CpuMatch, CpuMode
from compute_agent.virt.libvirt.config.devices import Controller, Devices
from compute_agent.virt.libvirt.config.disk import (
    Disk,
    DiskAddress,
    DiskBus,
    DiskCache,
    DiskDevice,
    DiskDiscard,
    DiskIo,
    DiskSourceHost,
    DiskType,
    DiskZeroes,
)
from compute_agent.virt.libvirt.config.display import Graphics, GraphicsType, Video, VideoModel
from compute_agent.virt.libvirt.config.domain import Domain, LifecycleAction
from compute_agent.virt.libvirt.config.element import Element, XmlError
from compute_agent.virt.libvirt.config.interface import FilterParameter, FilterRef, Interface, InterfaceType
from compute_agent.virt.libvirt.config.misc import (
    BalloonModel,
    Input,
    MemBalloon,
    Panic,
    PanicModel,
    Rng,
    RngModel,
    Watchdog,
    WatchdogAction,
    WatchdogModel,
)
from compute_agent.virt.libvirt.config.os import BootDevice, Firmware, Os
from compute_agent.virt.libvirt.config.platform import (
    Clock,
    ClockOffset,
    Features,
    IoApicDriver,
    Metadata,
    TickPolicy,
    Timer,
    TimerName,
)
from compute_agent.virt.libvirt.config.serial import Channel, CharType, Console, Serial

__all__ = [
    "BalloonModel",
    "BootDevice",
    "Channel",
    "CharType",
    "Clock",
    "ClockOffset",
    "Console",
    "Controller",
    "Cpu",
    "CpuFallback",
    "CpuMatch",
    "CpuMode",
    "Devices",
    "Disk",
    "DiskAddress",
    "DiskBus",
    "DiskCache",
    "DiskDevice",
    "DiskDiscard",
    "DiskIo",
    "DiskSourceHost",
    "DiskType",
    "DiskZeroes",
    "Domain",
    "Element",
    "Features",
    "FilterParameter",
    "FilterRef",
    "Firmware",
    "Graphics",
    "GraphicsType",
    "Input",
    "Interface",
    "InterfaceType",
    "IoApicDriver",
    "LifecycleAction",
    "MemBalloon",
    "Metadata",
    "Os",
    "Panic",
    "PanicModel",
    "Rng",
    "RngModel",
    "Serial",
    "TickPolicy",
    "Timer",
    "TimerName",
    "Video",
    "VideoModel",
    "Watchdog",
    "WatchdogAction",
    "WatchdogModel",
    "XmlError",
]

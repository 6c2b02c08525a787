# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""Character devices: serial ports, the console, channels to programs in the guest."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.element import ON_OFF, Element, prop


class CharType(enum.StrEnum):
    """What is at the host's end."""

    PTY = "pty"
    FILE = "file"
    UNIX = "unix"
    TCP = "tcp"
    NULL = "null"


@dataclasses.dataclass(kw_only=True)
class Serial(Element):
    """``<serial>``: a serial port. What the guest writes also goes to :attr:`log_file`, through virtlogd."""

    TAG: ClassVar[str] = "serial"

    type: CharType = prop("@type", default=CharType.PTY)
    source_path: str | None = prop("source/@path")
    source_mode: str | None = prop("source/@mode")
    source_host: str | None = prop("source/@host")
    source_service: int | None = prop("source/@service")
    log_file: str | None = prop("log/@file")
    log_append: bool | None = prop("log/@append", codec=ON_OFF)
    target_type: str | None = prop("target/@type")
    port: int | None = prop("target/@port")


@dataclasses.dataclass(kw_only=True)
class Console(Element):
    """``<console>``: which port is the guest's console."""

    TAG: ClassVar[str] = "console"

    type: CharType = prop("@type", default=CharType.PTY)
    target_type: str | None = prop("target/@type")
    port: int | None = prop("target/@port")


@dataclasses.dataclass(kw_only=True)
class Channel(Element):
    """``<channel>``: a wire to a program in the guest, by name."""

    TAG: ClassVar[str] = "channel"

    type: CharType = prop("@type", default=CharType.UNIX)
    source_mode: str | None = prop("source/@mode")
    source_path: str | None = prop("source/@path")
    target_type: str = prop("target/@type", default="virtio")
    name: str | None = prop("target/@name")
    state: str | None = prop("target/@state")

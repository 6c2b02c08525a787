# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""What the guest shows: graphics consoles and the video card."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.element import Element, prop


class GraphicsType(enum.StrEnum):
    """The protocol of a graphics console."""

    VNC = "vnc"
    SPICE = "spice"


@dataclasses.dataclass(kw_only=True)
class Graphics(Element):
    """``<graphics>``. A port of -1 with :attr:`auto_port` lets libvirt choose it."""

    TAG: ClassVar[str] = "graphics"

    type: GraphicsType = prop("@type", default=GraphicsType.VNC)
    port: int | None = prop("@port")
    tls_port: int | None = prop("@tlsPort")
    auto_port: bool | None = prop("@autoport")
    listen: str | None = prop("@listen")
    keymap: str | None = prop("@keymap")


class VideoModel(enum.StrEnum):
    """The video card."""

    VIRTIO = "virtio"
    VGA = "vga"
    CIRRUS = "cirrus"
    QXL = "qxl"
    BOCHS = "bochs"
    NONE = "none"


@dataclasses.dataclass(kw_only=True)
class Video(Element):
    """``<video>``. ``vram`` in KiB."""

    TAG: ClassVar[str] = "video"

    model: VideoModel | None = prop("model/@type")
    vram: int | None = prop("model/@vram")
    heads: int | None = prop("model/@heads")

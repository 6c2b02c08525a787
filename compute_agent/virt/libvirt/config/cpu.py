# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""``<cpu>``: the processor that the guest sees."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.element import Element, prop


class CpuMode(enum.StrEnum):
    """How the model is found."""

    CUSTOM = "custom"
    HOST_MODEL = "host-model"
    HOST_PASSTHROUGH = "host-passthrough"
    MAXIMUM = "maximum"


class CpuMatch(enum.StrEnum):
    """How exactly the host has to match."""

    EXACT = "exact"
    MINIMUM = "minimum"
    STRICT = "strict"


class CpuFallback(enum.StrEnum):
    """Whether libvirt may take a similar model."""

    ALLOW = "allow"
    FORBID = "forbid"


@dataclasses.dataclass(kw_only=True)
class Cpu(Element):
    """Model and topology. All of the three topology numbers are given, or none."""

    TAG: ClassVar[str] = "cpu"

    mode: CpuMode | None = prop("@mode")
    match: CpuMatch | None = prop("@match")
    model: str | None = prop("model")
    fallback: CpuFallback | None = prop("model/@fallback")
    sockets: int | None = prop("topology/@sockets")
    dies: int | None = prop("topology/@dies")
    cores: int | None = prop("topology/@cores")
    threads: int | None = prop("topology/@threads")

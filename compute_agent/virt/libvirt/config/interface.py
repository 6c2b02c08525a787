# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""``<interface>``: a network interface."""

import dataclasses
import enum
from typing import ClassVar

from compute_agent.virt.libvirt.config.element import REQUIRED, Element, child, children, prop


class InterfaceType(enum.StrEnum):
    """How the host connects it."""

    BRIDGE = "bridge"
    DIRECT = "direct"
    ETHERNET = "ethernet"
    NETWORK = "network"
    USER = "user"


@dataclasses.dataclass(kw_only=True)
class FilterParameter(Element):
    """``<parameter>``: a value that a filter's rules refer to."""

    TAG: ClassVar[str] = "parameter"

    name: str = prop("@name", default=REQUIRED)
    value: str = prop("@value", default=REQUIRED)


@dataclasses.dataclass(kw_only=True)
class FilterRef(Element):
    """``<filterref>``: the packet filter in front of an interface."""

    TAG: ClassVar[str] = "filterref"

    filter: str = prop("@filter", default=REQUIRED)
    parameters: list[FilterParameter] = children("parameter", FilterParameter)


@dataclasses.dataclass(kw_only=True)
class Interface(Element):
    """One interface. :attr:`target` is the host's end, whose name is derived from the VIF; MTU in bytes."""

    TAG: ClassVar[str] = "interface"

    type: InterfaceType = prop("@type", default=InterfaceType.BRIDGE)
    mac: str | None = prop("mac/@address")
    bridge: str | None = prop("source/@bridge")
    source_device: str | None = prop("source/@dev")
    source_mode: str | None = prop("source/@mode")
    virtual_port: str | None = prop("virtualport/@type")
    virtual_port_id: str | None = prop("virtualport/parameters/@interfaceid")
    target: str | None = prop("target/@dev")
    managed: bool | None = prop("target/@managed")
    model: str | None = prop("model/@type")
    driver: str | None = prop("driver/@name")
    queues: int | None = prop("driver/@queues")
    mtu: int | None = prop("mtu/@size")
    filter: FilterRef | None = child("filterref", FilterRef)
    boot_order: int | None = prop("boot/@order")
    alias: str | None = prop("alias/@name")

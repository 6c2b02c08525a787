# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009  (a declared field is a function call that makes a new field each time)
"""What belongs to the machine as a whole: features, clock, metadata."""

import copy
import dataclasses
import enum
from typing import ClassVar, Self

from lxml import etree

from compute_agent.virt.libvirt.config.element import ON_OFF, REQUIRED, Codec, Element, Place, children, prop


class IoApicDriver(enum.StrEnum):
    """Who emulates the interrupt controller."""

    KVM = "kvm"
    QEMU = "qemu"


@dataclasses.dataclass(kw_only=True)
class Features(Element):
    """``<features>``: of the machine."""

    TAG: ClassVar[str] = "features"

    acpi: bool = prop("acpi", default=False)
    apic: bool = prop("apic", default=False)
    pae: bool = prop("pae", default=False)
    kvm_hidden: bool | None = prop("kvm/hidden/@state", codec=ON_OFF)
    pmu: bool | None = prop("pmu/@state", codec=ON_OFF)
    vmport: bool | None = prop("vmport/@state", codec=ON_OFF)
    smm: bool | None = prop("smm/@state", codec=ON_OFF)
    ioapic: IoApicDriver | None = prop("ioapic/@driver")


class ClockOffset(enum.StrEnum):
    """What the guest's clock starts from."""

    UTC = "utc"
    LOCALTIME = "localtime"


class TimerName(enum.StrEnum):
    """A time source of the guest."""

    PIT = "pit"
    RTC = "rtc"
    HPET = "hpet"
    KVMCLOCK = "kvmclock"
    TSC = "tsc"
    HYPERV = "hypervclock"


class TickPolicy(enum.StrEnum):
    """What becomes of ticks that the guest missed."""

    DELAY = "delay"
    CATCHUP = "catchup"
    MERGE = "merge"
    DISCARD = "discard"


@dataclasses.dataclass(kw_only=True)
class Timer(Element):
    """``<timer>``: one time source."""

    TAG: ClassVar[str] = "timer"

    name: TimerName = prop("@name", default=REQUIRED)
    present: bool | None = prop("@present")
    tick_policy: TickPolicy | None = prop("@tickpolicy")


@dataclasses.dataclass(kw_only=True)
class Clock(Element):
    """``<clock>``."""

    TAG: ClassVar[str] = "clock"

    offset: ClockOffset = prop("@offset", default=ClockOffset.UTC)
    timers: list[Timer] = children("timer", Timer)


class Metadata(Element):
    """``<metadata>``: elements of anyone's, kept as they are."""

    TAG: ClassVar[str] = "metadata"

    def __init__(self, *elements: etree._Element) -> None:
        self.elements = list(elements)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metadata) and self._texts() == other._texts()

    def __hash__(self) -> int:
        return hash(tuple(self._texts()))

    @classmethod
    def places(cls) -> list[tuple[str, Place, Codec]]:
        """Declare nothing: what is inside is not ours to interpret."""
        return []

    def to_element(self) -> etree._Element:
        """Build the XML element."""
        node = etree.Element(self.TAG)
        node.extend(copy.deepcopy(element) for element in self.elements)
        return node

    @classmethod
    def from_element(cls, node: etree._Element) -> Self:
        """Take all that is inside ``node``."""
        return cls(*(copy.deepcopy(element) for element in node))

    def _texts(self) -> list[bytes]:
        return [etree.tostring(element, method="c14n", with_tail=False) for element in self.elements]

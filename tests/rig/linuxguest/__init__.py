# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest: Debian's cloud kernel, a busybox initramfs, a witness of what happens to it.

It boots through its own boot loader from a FAT image, so an agent spawns it like any other image. Inside, a
small program writes numbered, checksummed records to a zone of the disk all the time and ticks on the serial
port; the NIC's address follows from its MAC (`mac_of`); the guest agent of QEMU answers.
"""

from tests.rig.linuxguest.build import ZONE, Program, image
from tests.rig.linuxguest.console import Tick, ticks
from tests.rig.linuxguest.records import Judgement, judge

__all__ = ["ZONE", "Judgement", "Program", "Tick", "image", "judge", "mac_of", "ticks"]


def mac_of(address: str) -> str:
    """The MAC that makes the guest's NIC take this IPv4 address."""
    return ":".join(["02", "ca", *(f"{int(part):02x}" for part in address.split("."))])

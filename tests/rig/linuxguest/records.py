# SPDX-License-Identifier: Apache-2.0
"""The records that the witness wrote, judged from outside, on the disk of a guest that is off.

Record N lies in slot (N - 1) % slots. Every record from the newest back to the oldest that the zone still
holds has to be there, whole; only the one that was being written when the power went may be missing.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import zlib

from tests.rig.linuxguest.build import ZONE

BLOCK = 4096
_SUM = 4
_HEAD = re.compile(rb"record (\d+) (\d+) ")


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The newest record (0: none), how many are whole, and the numbers of those that are lost or damaged."""

    newest: int
    whole: int
    lost: tuple[int, ...]


def judge(disk: pathlib.Path) -> Judgement:
    """Judge a raw disk. The guest must not be running."""
    with disk.open("rb") as file:
        file.seek(ZONE.offset)
        return judge_zone(file.read(ZONE.length))


def judge_zone(zone: bytes) -> Judgement:
    """Judge the bytes of a zone."""
    slots = len(zone) // BLOCK
    found = {slot: number_in(zone[slot * BLOCK : (slot + 1) * BLOCK]) for slot in range(slots)}
    newest = max(found.values(), default=0)
    oldest = max(1, newest - slots + 2)
    lost = tuple(n for n in range(oldest, newest + 1) if found[(n - 1) % slots] != n)
    return Judgement(newest, sum(1 for number in found.values() if number), lost)


def number_in(block: bytes) -> int:
    """The number of the record in a block; 0 if it holds no whole one."""
    head = _HEAD.match(block)
    if head is None or zlib.crc32(block[:-_SUM]) != int.from_bytes(block[-_SUM:], "little"):
        return 0
    return int(head[1])

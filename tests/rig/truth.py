# SPDX-License-Identifier: Apache-2.0
"""The truth about a guest that is moved: on which hosts it ran, and whether it is one and the same guest.

Two witnesses that know nothing of each other. The hypervisors are asked for its state again and again, each
by a thread of its own that asks anew when libvirtd has died. And the guest counts its ticks on its console:
two copies of it would both say the next number, and one that was started anew would begin to count again.
Neither agent is asked.

A guest whose kernel breaks need not be the agents' fault: where QEMU emulates the processor (TCG), it may
miss that a page was changed while its memory is copied, the sooner the busier the machine is.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import re
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from tests.rig import linuxguest
from tests.rig.hypervisor import bindings
from tests.rig.labguest import LabGuest
from tests.rig.labhost import Host
from tests.rig.linuxguest import console as consoles
from tests.rig.measure import Tail

_POLL_S = 0.02
_AWAY_S = 0.1
_JOIN_S = 10.0
_BROKEN = re.compile(r"Oops|BUG:|Kernel panic|general protection|I/O error")
_START = re.compile(r"^witness start (\d+) record (\d+)\s*$", re.M)


@dataclasses.dataclass
class Span:
    """A time in which a guest ran at a host, by each of its samples: from the first to the last of them."""

    host: str
    first: float
    last: float

    def overlaps(self, other: Span) -> bool:
        """Whether there is an instant of which both say that it ran."""
        return max(self.first, other.first) < min(self.last, other.last)


class Truth:
    """Watches a guest from entering a `with` block to its end.

    found: the newest record that was on its disk at its last start.
    troubles: what went wrong with its disk, as it said.
    """

    def __init__(self, guest: LabGuest) -> None:
        self.guest = guest
        self.ticks: list[tuple[float, linuxguest.Tick]] = []
        self.found = 0
        self._starts: set[str] = set()
        self.troubles: list[str] = []
        self._other: list[str] = []
        self._spans: dict[str, list[Span]] = {host.name: [] for host in guest.lab.hosts}
        self._stopping = threading.Event()
        self._tails = [Tail(path, all_of_it=True) for path in guest.console_files()]
        watches = [(self._watch_host, host) for host in guest.lab.hosts]
        self._threads = [threading.Thread(target=run, args=(host,), daemon=True) for run, host in watches]
        self._threads.append(threading.Thread(target=self._watch_consoles, daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(_JOIN_S)

    # --- the hypervisors -------------------------------------------------------------------------------

    def _watch_host(self, host: Host) -> None:
        libvirt = bindings()
        while not self._stopping.wait(_AWAY_S):
            with (
                contextlib.suppress(libvirt.libvirtError),
                contextlib.closing(host.hypervisor.connect()) as one,
            ):
                self._sample(host, one)

    def _sample(self, host: Host, connection: Any) -> None:
        """Sample until libvirtd is gone: what it says after that begins a span of its own."""
        now: Span | None = None
        while not self._stopping.wait(_POLL_S):
            before = time.monotonic()
            runs = _runs(connection, self.guest.uuid)
            after = time.monotonic()
            if not runs:
                now = None
            elif now is None:
                now = Span(host.name, after, after)
                self._spans[host.name].append(now)
            else:
                now.last = before

    @property
    def spans(self) -> list[Span]:
        """Where it ran, and when, in order of the beginnings."""
        return sorted(itertools.chain(*self._spans.values()), key=lambda span: span.first)

    # --- the consoles ----------------------------------------------------------------------------------

    def _watch_consoles(self) -> None:
        while not self._stopping.wait(_POLL_S):
            self._read_on()
        self._read_on()

    def _read_on(self) -> None:
        for tail in self._tails:
            now, text = time.monotonic(), tail.news()
            found = linuxguest.ticks(text)
            self._note_starts(text)
            self._other += [line for line in text.splitlines() if not line.startswith("tick ")]
            self.troubles += consoles.troubles(text)
            self.ticks += [(now, tick) for tick in found]
            self.guest.remember(found)

    def _note_starts(self, text: str) -> None:
        for uptime, record in _START.findall(text):
            self._starts.add(uptime)
            self.found = int(record)

    @property
    def starts(self) -> int:
        """How often it was started; each start has an uptime of its own."""
        return len(self._starts)

    # --- the verdict -----------------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """What speaks against one guest that was never in two places and never started again."""
        said = [tick.number for _at, tick in list(self.ticks)]
        broke = [line for line in self._other if _BROKEN.search(line)]
        return [*contradictions(self.spans, said, self.starts), *self.troubles, *broke]

    def longest_away(self) -> float:
        """The longest time that it stood still, by its ticks, in seconds; infinite without two of them."""
        seen = sorted(self.ticks, key=lambda pair: pair[1].up_ms)
        away = [(b - a) - (two.up_ms - one.up_ms) / 1000 for (a, one), (b, two) in itertools.pairwise(seen)]
        return max(away, default=float("inf"))

    def evidence(self) -> str:
        """Where it ran when, and its last ticks, for a failing test."""
        lines = [f"ran at {span.host} from {span.first:.3f} to {span.last:.3f}" for span in self.spans]
        lines += [f"{at:.3f} {tick}" for at, tick in self.ticks[-5:]]
        lines += ["said besides:", *self._other[-20:]]
        return "\n".join(["--- the truth", *lines])


def contradictions(spans: Sequence[Span], said: Sequence[int], starts: int) -> list[str]:
    """What can't be of one guest: where it ran, which ticks it said, and how often it was started."""
    pairs = itertools.combinations(spans, 2)
    both = [(one, two) for one, two in pairs if one.host != two.host and one.overlaps(two)]
    found = [f"it ran at both: {one}, {two}" for one, two in both]
    times = collections.Counter(said)
    found += [f"it said tick {number} {times[number]} times" for number in times if times[number] > starts]
    return found + ([f"it was started {starts} times"] if starts > 1 else [])


def _runs(connection: Any, uuid: str) -> bool:
    libvirt = bindings()
    try:
        found = connection.lookupByUUIDString(uuid).state()[0]
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return False
    return found in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)

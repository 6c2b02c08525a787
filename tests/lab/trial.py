# SPDX-License-Identifier: Apache-2.0
"""A guest to which something happens while it is migrated, and the judgement on what came of it.

All is judged from outside: hypervisors, process tables, files, network devices, the guest's own ticks and
disk, and the agents' events. An agent is asked only for what it has on record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from tests.lab.conftest import Pair
from tests.rig.agent import Agent
from tests.rig.labguest import LabGuest
from tests.rig.labhost import GUESTS_BRIDGE, Host
from tests.rig.linuxguest import Program
from tests.rig.process import RigError, wait_until
from tests.rig.receiver import ENDS
from tests.rig.sender import RemoteError, Sender
from tests.rig.truth import Truth

Payload = dict[str, Any]

TCP: Mapping[str, Mapping[str, object]] = {
    "libvirt": {"live_migration_scheme": "tcp", "live_migration_trust_shared_storage": True}
}
END_S = 240.0
#: Changes its memory faster than a slow wire takes it, so that its migration does not end by itself.
BUSY = Program(dirty_mib=32)
SLOW_MBIT = 24.0
#: Where the guest's QEMU and the disks' servers listen while it is moved.
PORTS = range(49152, 49216)
_LISTENS = "0A"


@dataclasses.dataclass(frozen=True)
class Left:
    """What a host holds beside a guest, to be compared."""

    secrets: tuple[str, ...]
    filters: tuple[str, ...]
    taps: tuple[str, ...]
    files: tuple[str, ...]
    ports: tuple[int, ...]


class Trial:
    """The guest, both agents, and what watches them: from entering a `with` block to its end."""

    def __init__(self, both: Pair, guest: LabGuest) -> None:
        self.both = both
        self.guest = guest
        self.truth = Truth(guest)
        self.here = 0
        self.migrations: list[str] = []
        self._asked_at = 0.0
        self._before = [self._left(host) for host in both.hosts]

    @classmethod
    def begin(cls, both: Pair, **guest: Any) -> Trial:
        """A guest of its own on the first host."""
        bare = LabGuest(both.lab, both.instances_path, **guest)
        trial = cls(both, bare)
        both.receiver.succeeded(both.senders[0].cast("spawn", instance=bare.instance), 90)
        return trial

    def __enter__(self) -> Self:
        self.truth.__enter__()
        self.guest.wait_up()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.truth.__exit__()

    # --- who is who ------------------------------------------------------------------------------------

    @property
    def source(self) -> Agent:
        return self.both.agents[self.here]

    @property
    def destination(self) -> Agent:
        return self.both.agents[1 - self.here]

    @property
    def source_host(self) -> Host:
        return self.both.hosts[self.here]

    @property
    def destination_host(self) -> Host:
        return self.both.hosts[1 - self.here]

    @property
    def sender(self) -> Sender:
        """To the source."""
        return self.both.senders[self.here]

    # --- doing -----------------------------------------------------------------------------------------

    def migrate(self, **more: Any) -> str:
        """Cast it to the source; the operation's id."""
        asked = {"dest": self.destination.host, "mode": "live", **more}
        self._asked_at = time.monotonic()
        migration = self.sender.cast("migrate", instance_uuid=self.guest.uuid, **asked)
        self.migrations.append(migration)
        return migration

    def arm(self, agent: Agent, failpoints: str) -> None:
        """Start an agent anew with `failpoints`, for this one run of it."""
        agent.kill()
        agent.environment["COMPUTE_AGENT_FAILPOINTS"] = failpoints
        try:
            agent.start()
        finally:
            del agent.environment["COMPUTE_AGENT_FAILPOINTS"]

    def status(self) -> Payload:
        """What the source tells of the migration; nothing while it can't be asked, or has none on record."""
        with contextlib.suppress(RigError, RemoteError):
            told = self.sender.call("get_migration_status", instance_uuid=self.guest.uuid, wait_s=10)
            return dict(told["handshake"] or {}) | {"transfer": told["migration"]}
        return {}

    def wait_phase(self, *phases: str) -> None:
        """Wait until the source has one of these phases on record, for the newest migration."""

        def reached() -> bool:
            told = self.status()
            return told.get("phase") in phases and told.get("migration_id") == self.migrations[-1]

        wait_until(reached, END_S, f"the phase {phases}", self.evidence)

    def wait_copying(self, least: int = 2**21) -> None:
        """Wait until so many bytes have gone over the wire, by libvirt's own counters."""
        wait_until(lambda: self.copied() >= least, END_S, "memory on its way", self.evidence)

    def copied(self) -> int:
        """How many bytes libvirt says have been transferred; 0 without a job."""
        with contextlib.suppress(RigError):
            told = self.source_host.virsh("domjobinfo", "--rawstats", self.guest.uuid, timeout=30)
            stats = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
            return int(stats.get("memory_processed", 0)) + int(stats.get("disk_processed", 0))
        return 0

    def has_job(self) -> bool:
        """Whether libvirt works on the guest at the source."""
        return "None" not in self.source_host.virsh("domjobinfo", self.guest.uuid)

    def wait_left(self) -> None:
        """Wait until all of the guest is at the destination, by what libvirt says at the source."""
        self.guest.on(self.source_host).wait_state("shutoff", END_S)

    def stays_held(self, seconds: float) -> None:
        """See for so long that the guest stands still, at both hosts. Raises AssertionError if it doesn't."""
        ends, last = time.monotonic() + seconds, self.guest.last_tick()
        there = self.guest.on(self.destination_host)
        while time.monotonic() < ends:
            assert there.state == "paused" and self.guest.last_tick() == last, self.evidence()
        assert self.guest.with_qemu() == [self.destination_host]

    def never_ran_there(self) -> None:
        """Raises AssertionError if a copy has run at the destination since the migration was asked for."""
        there = self.destination_host.name
        spans = [span for span in self.truth.spans if span.host == there and span.last > self._asked_at]
        assert not spans, self.evidence()

    def moves_on(self) -> None:
        """Nothing is in the way of the next migration."""
        self.migrate()
        self.settle(moved=True)

    def start_again(self) -> None:
        """Switch the guest on at the host that has it: it finds on its disk all that it had written."""
        written = self.guest.last_tick().records
        self.both.receiver.succeeded(self.sender.cast("power_on", instance_uuid=self.guest.uuid), 90)
        wait_until(lambda: self.truth.starts == 2, END_S, "the second start", self.evidence)
        assert self.truth.found >= written, self.evidence()

    # --- judging ---------------------------------------------------------------------------------------

    def settle(
        self,
        moved: bool | None = None,
        *,
        error: str | None = None,
        state: str = "active",
        lost: bool = False,
    ) -> Payload:
        """Wait until the newest migration is over at both ends, and judge what came of it.

        moved: whether it has to have; None: either. error: the code with which the operation has to end.
        state: how the instance has to be on record. lost: its memory is, so that neither it came nor it left.
        Returns the event that ended the operation. From then on `here` is where the guest is.
        """
        migration = self.migrations[-1]
        end = self.both.receiver.end_of(migration, END_S)
        has_moved = end["type"] == "operation.succeeded"
        assert moved is None or has_moved == moved, (end["type"], end["data"].get("error"))
        code = (end["data"].get("error") or {}).get("code")
        assert error is None or code == error, end["data"]
        if has_moved:
            self.here = 1 - self.here
        wait_until(lambda: not self._unsettled(state), END_S, "one guest at one host", self.evidence)
        if state == "active":
            self.guest.wait_ticks(3, END_S)
        self._judge_events(migration, has_moved, went_off=state != "active", lost=lost)
        found = [*self.truth.faults(), *self.guest.troubles()]
        assert not found, f"{found}\n{self.evidence()}"
        return end

    def _unsettled(self, state: str = "active") -> list[str]:
        """What is not as it has to be: one copy that runs (or none), one owner, nothing at the other host."""
        return self._undecided(state) or self._not_in_order()

    def _undecided(self, state: str) -> list[str]:
        runs = [self.source_host] if state == "active" else []
        told = self.status()
        is_newest = told.get("migration_id") == self.migrations[-1]
        return _differing(
            {
                "runs on": (self.guest.running_on(), runs),
                "QEMU": (self.guest.with_qemu(), runs),
                "on record at": (self.owners(), [self.here]),
                "on record as": (self.state(), state),
                "settled": (told["settled"] if is_newest else True, True),
            }
        )

    def _not_in_order(self) -> list[str]:
        here, there = self.source_host, self.destination_host
        runs = bool(self.guest.running_on())
        return _differing(
            {
                "a domain there": (self.guest.uuid in there.hypervisor.domains(), False),
                "there": (self._left(there), self._before[1 - self.here]),
                "open ports": (self._left(here).ports, ()),
                "a job": (runs and self.has_job(), False),
            }
        )

    def owners(self) -> list[int]:
        """The sides whose agent has the instance on record."""
        return [side for side in (0, 1) if self._has(side)]

    def _has(self, side: int) -> bool:
        return self._instance(side) is not None

    def _instance(self, side: int) -> Payload | None:
        try:
            found = self.both.senders[side].call("get_instance", instance_uuid=self.guest.uuid, wait_s=20)
        except RemoteError as error:
            if error.code not in ("InstanceNotFound", "WrongHost"):
                raise
            return None
        return dict(found)

    def state(self) -> str | None:
        """The state in which it is on record where it is."""
        found = self._instance(self.here)
        return str(found["state"]) if found else None

    def _left(self, host: Host) -> Left:
        """What there is on a host; the guest's own directory counts where storage is not shared."""
        shared = not self.both.instances_path.is_relative_to(host.local)
        directory = host.outside(self.both.instances_path)
        names = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
        dropped = self.guest.uuid if shared else "\0"
        return Left(
            secrets=tuple(host.virsh("-q", "secret-list").split()),
            filters=tuple(
                word
                for kind in ("nwfilter-list", "nwfilter-binding-list")
                for word in host.virsh("-q", kind).split()
            ),
            taps=tuple(_taps(host)),
            files=tuple(sorted(name for name in names if _counts(name, dropped))),
            ports=tuple(_open_ports(host)),
        )

    def _judge_events(self, migration: str, moved: bool, went_off: bool, lost: bool) -> None:
        """Both agents tell the same story, once, and without a gap."""
        receiver = self.both.receiver
        receiver.assert_gapless()
        ends = [event["type"] for event in receiver.of_operation(migration) if event["type"] in ENDS]
        assert len(ends) == 1, ends
        received = str(uuids.uuid5(uuids.UUID(migration), "receive_migration"))
        if moved:  # told by the other host, whose way to the broker may have been cut just now
            receiver.end_of(received, END_S)
        ends = [event["type"] for event in receiver.of_operation(received) if event["type"] in ENDS]
        assert ends == ["operation.succeeded"] if moved else ends in ([], ["operation.failed"]), ends
        if not lost:
            self._judge_lifecycle({migration, received}, moved, went_off)

    def _judge_lifecycle(self, operations: set[str], moved: bool, went_off: bool) -> None:
        """The guest left the one host and is at the other; or it stayed, and nobody heard of it there."""
        went = {(self.destination.host, kind) for kind in ("lifecycle.migration_completed", "removed")}
        came = {(self.source.host, "lifecycle.started")} if moved else set()
        allowed = {(self.destination.host, "removed")} if not moved else set()
        wanted = (came | went) if moved else set()
        wanted |= {(self.source.host, "lifecycle.crashed")} if went_off else set()
        wait_until(lambda: wanted <= set(self._lifecycle(operations)), END_S, str(wanted), self.evidence)
        told = self._lifecycle(operations)
        assert set(told) - allowed == wanted and len(told) == len(set(told)), told

    def _lifecycle(self, operations: set[str]) -> list[tuple[str, str]]:
        """Which host told what of the guest's life in the course of these operations."""
        return [
            (event["host"], event["type"].removeprefix("instance."))
            for event in self.both.receiver.of_instance(self.guest.uuid)
            if event["operation_id"] in operations
            and event["type"].startswith(("instance.lifecycle.", "instance.removed"))
        ]

    def judge_disk(self) -> None:
        """Pull the plug: every record that the guest said was on its disk is there, and whole."""
        self.guest.wait_ticks(3)
        newest = self.guest.last_tick().records
        self.guest.destroy()
        judged = self.guest.judge_disk(self.source_host)
        assert judged.lost == () and judged.newest >= newest > 0, judged

    def evidence(self) -> str:
        """All that there is, for a failing test."""
        told = [
            f"{event['host']} {event['type']} {(event.get('data') or {}).get('error') or ''}"
            for event in self.both.receiver.of_instance(self.guest.uuid)[-30:]
        ]
        return "\n".join([f"unsettled: {self._seen_unsettled()}", self.truth.evidence(), *told])

    def _seen_unsettled(self) -> object:
        try:
            return self._unsettled()
        except Exception as error:  # an agent or a libvirtd is away: that is evidence too
            return error


@contextlib.contextmanager
def on_trial(both: Pair, **guest: Any) -> Iterator[Trial]:
    """A guest on trial, up and watched; in the end its disk is judged."""
    with Trial.begin(both, **guest) as trial:
        yield trial
        trial.judge_disk()


def _differing(facts: Mapping[str, tuple[object, object]]) -> list[str]:
    """Those of the facts, by name, which are not as they are wanted."""
    return [f"{what}: {seen}, not {wanted}" for what, (seen, wanted) in facts.items() if seen != wanted]


def _counts(name: str, dropped: str) -> bool:
    """Whether a file tells of what was done: not what is kept for all, nor what is shared."""
    own = name.partition("/")[0]
    if own == dropped:
        return name.endswith((".part", "arriving", ".new"))
    return own not in ("_base", "locks")


def _taps(host: Host) -> Iterator[str]:
    for line in host.tell("ip", "-o", "link", "show", "master", GUESTS_BRIDGE).splitlines():
        name = line.split(":")[1].strip().partition("@")[0]
        if name != "eth0":
            yield name


def _open_ports(host: Host) -> Iterator[int]:
    lines = [line.split() for line in host.tell("cat", "/proc/net/tcp").splitlines()[1:]]
    for words in lines:
        port = int(words[1].rpartition(":")[2], 16)
        if words[3] == _LISTENS and port in PORTS:
            yield port


Fault = Callable[[Trial], None]

# SPDX-License-Identifier: Apache-2.0
"""Draining the host: every guest is moved away, and none comes until it serves again.

The operation ``host_maintenance_mode`` moves nothing itself: it has a child ``migrate`` for each guest, looks
how they get on, and asks for a host where none is named. All that it knows is on record (`drains`, the
journal, the instances), so that it goes on after a crash with the same children. That the host takes no
guests is durable before the first is sent away, and stays so until ``mode=off``, however the drain ends.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from compute_agent import concurrency, failpoints
from compute_agent.conf import CONF
from compute_agent.manager import adoption, departures, host
from compute_agent.manager.departures import GONE, Departure, Standing
from compute_agent.manager.manager import Manager
from compute_agent.model import arguments, errors
from compute_agent.model.arguments import MaintenanceMode, MigrationMode
from compute_agent.model.event import Cause, EventType
from compute_agent.model.operation import Lane, Origin
from compute_agent.operations.acceptance import Proposal, propose
from compute_agent.operations.verbs import Job, Outcome, Unfinished, verb
from compute_agent.store import drains, handshakes, instances, journal, outbox
from compute_agent.store import host as host_store
from compute_agent.store.database import Transaction
from compute_agent.store.drains import DrainRecord, Word
from compute_agent.store.handshakes import HandshakeRecord

LOOK_S = 1.0
AGAIN_S = 5.0
"""How long it waits before it sends a guest again, in seconds; twice as long the next time."""
CALL_BACK_S = 120.0
"""For how long a drain that ends early waits for the migrations that it has asked to end, in seconds."""
RELEASE_S = 60.0
"""For how long it waits until the agents of the other hosts have confirmed cold migrations, in seconds."""
DAY_S = 86400.0
AHEAD = 2
"""So many times as many children as may run are asked for: the next is ready when a place is free, and only
few guests stand in line behind a migration that waits."""
OVER = frozenset({*GONE, Standing.BLOCKED})


@verb("host_maintenance_mode", lane=Lane.HOST, detached=True, timeout_s=DAY_S, probe="no guest is left")
def host_maintenance_mode(manager: Manager, job: Job) -> Outcome:
    """Move every guest away and take no new ones, or take guests again."""
    wanted: arguments.HostMaintenance = job.arguments
    if wanted.mode is MaintenanceMode.OFF:
        return _serve_again(manager, job)
    while (drain_id := manager.store.insist(lambda tx: _begin(tx, job))) is None:
        with job.work.waiting("the end of the drain before"):
            job.work.sleep(LOOK_S)
    failpoints.hit("drain.begun")
    if drain_id != job.operation.operation_id:
        return Outcome({"joined": drain_id})
    return Outcome(Drain(manager, job).run())


def _serve_again(manager: Manager, job: Job) -> Outcome:
    """End the drain that is under way, if there is one, and let the host take guests; a later word stands."""
    ending = manager.store.insist(lambda tx: _close_for(tx, job))
    entry = manager.engine.ask_to_end(ending) if ending is not None else None
    if entry is not None:  # what it moves must not go on while the host serves
        with job.work.waiting(f"the end of drain {entry.operation_id}"):
            job.work.wait(entry.ended)
    failpoints.hit("drain.ended_early")

    def lift(tx: Transaction) -> None:
        drain = drains.find(tx)
        if drain is None or drain.operation_id == ending:
            drains.drop(tx)
            host.lift_in(tx, host_store.MAINTENANCE, job.operation.operation_id)

    manager.store.insist(lift)
    return Outcome({"reasons": manager.store.read(host_store.reasons)})


def _close_for(tx: Transaction, job: Job) -> str | None:
    """Let no word join the drain that was asked for before ``job``; return its id, or None."""
    drain = drains.find(tx)
    if drain is None or _is_later(tx, drain, job):
        return None
    drains.put(tx, msgspec.structs.replace(drain, open=False))
    return drain.operation_id


def _is_later(tx: Transaction, drain: DrainRecord, job: Job) -> bool:
    """Whether a drain was asked for after ``job``, which a crash has interrupted."""
    asked = journal.find(tx, drain.operation_id)
    return job.work.resumed and asked is not None and asked.accepted_at > job.operation.accepted_at


def _begin(tx: Transaction, job: Job) -> str | None:
    """Put the drain on record, or add to the one that is under way.

    :return: the id of the drain that the word is about; None while another is about to end
    """
    mine = job.operation.operation_id
    drain = drains.find(tx)
    if drain is None or drain.operation_id != mine:
        if drain is not None and journal.runs(tx, drain.operation_id):
            return _join(tx, drain, job) if drain.open else None
        asks = job.arguments.destinations is None
        drain = DrainRecord(operation_id=mine, asks=asks, words=_words(job))
    drains.put(tx, msgspec.structs.replace(drain, open=True))
    host.object_in(tx, host_store.MAINTENANCE, f"it is drained by operation {mine}", mine)
    return mine


def _join(tx: Transaction, drain: DrainRecord, job: Job) -> str:
    """Add the hosts that another word names; where it names none, all that is open is asked anew."""
    if words := _words(job):
        drain = msgspec.structs.replace(drain, words=drain.words | words)
    else:
        drain = msgspec.structs.replace(drain, asks=True, asked={}, round=drain.round + 1)
    return drains.put(tx, drain).operation_id


def _words(job: Job) -> dict[str, Word]:
    named = job.arguments.destinations or {}
    return {uuid: Word(dest=dest, operation_id=job.operation.operation_id) for uuid, dest in named.items()}


class Drain:
    """A drain, in this run of the agent."""

    def __init__(self, manager: Manager, job: Job) -> None:
        self._manager = manager
        self._job = job
        self._work = job.work
        self._id = job.operation.operation_id
        self._seen_asked: dict[tuple[str, str, int], float] = {}
        self._seen_failed: dict[str, float] = {}
        self._over_since: float | None = None

    def run(self) -> dict[str, Any]:
        """Go on until no guest is left that could go; return the report.

        :raises MigrationFailed: if some could not
        :raises Cancelled: if it was cancelled, or the host is to serve again
        :raises Timeout: if its time is over
        """
        with self._work.within("moving"):
            while True:
                drain, found = self._look()
                if self._work.cancel_requested.is_set() or self._work.remaining() == 0:
                    self._call_back()
                    self._work.check()
                if self._manager.engine.stopping.is_set():
                    raise Unfinished
                self._ask(drain, found)
                self._send(found)
                if self._is_over(found) and self._close(drain):
                    return self._end(found)
                self._wait(found)

    # --- looking ---------------------------------------------------------------------------------------

    def _look(self) -> tuple[DrainRecord, list[Departure]]:
        """Take in who has come, see how all stand, and tell it."""
        self._manager.store.insist(self._take_in)
        drain, found = self._manager.store.read(self._see)
        found = [self._judge(drain, one) for one in found]
        self._work.findings = self._report(found)
        done = sum(one.standing in GONE for one in found)
        self._work.waiting_for = _waits_for(found)
        self._work.report(done, len(found), "guests")
        return drain, found

    def _take_in(self, tx: Transaction) -> None:
        drain = self._ours(tx)
        known = set(drain.guests)
        if new := [one.uuid for one in instances.every(tx) if one.uuid not in known]:
            drains.put(tx, msgspec.structs.replace(drain, guests=drain.guests + new))

    def _see(self, tx: Transaction) -> tuple[DrainRecord, list[Departure]]:
        drain = self._ours(tx)
        return drain, departures.see(tx, drain)

    def _ours(self, tx: Transaction) -> DrainRecord:
        drain = drains.find(tx)
        if drain is None or drain.operation_id != self._id:
            raise errors.Interrupted("the drain is not on record any more")
        return drain

    def _judge(self, drain: DrainRecord, one: Departure) -> Departure:
        """Say of a guest what the record can't: whether a host is asked for in vain."""
        if one.standing is not Standing.ASKED:
            return one
        since = self._seen_asked.setdefault((one.uuid, _key(one), drain.round), time.monotonic())
        limit = CONF.host.placement_timeout
        if time.monotonic() - since < limit:
            return one
        unheard = errors.Timeout(
            f"nobody has named a host for it within {limit:g} s",
            hint="cast host_maintenance_mode again with destinations, or migrate it",
        ).to_error()
        return dataclasses.replace(one, standing=Standing.BLOCKED, error=one.error or unheard)

    def _report(self, found: Sequence[Departure]) -> dict[str, Any]:
        counted = {standing.value: sum(one.standing is standing for one in found) for standing in Standing}
        counts = {name: number for name, number in counted.items() if number}
        return {"total": len(found), **counts, "guests": [one.told() for one in found]}

    # --- acting ----------------------------------------------------------------------------------------

    def _ask(self, drain: DrainRecord, found: Sequence[Departure]) -> None:
        """Tell once, durably, for whom a host is needed."""
        new = [
            one for one in found if one.standing is Standing.ASKED and drain.asked.get(one.uuid) != _key(one)
        ]
        if not new:
            return

        def write(tx: Transaction) -> None:
            ours = self._ours(tx)
            for one in new:
                self._tell_needed(tx, one)
            drains.put(
                tx, msgspec.structs.replace(ours, asked=ours.asked | {one.uuid: _key(one) for one in new})
            )

        self._manager.store.insist(write)
        failpoints.hit("drain.asked")

    def _tell_needed(self, tx: Transaction, one: Departure) -> None:
        assert one.record is not None
        data = {
            "reason": "maintenance",
            "drain": self._id,
            "mode": one.mode.value,
            "flavor": msgspec.to_builtins(one.record.instance.flavor),
            "tried": one.dest,
            "error": msgspec.to_builtins(one.error) if one.error else None,
        }
        outbox.append(
            tx,
            EventType.HOST_PLACEMENT_NEEDED,
            instance=one.record,
            operation_id=self._id,
            request_id=self._job.operation.context.get("request_id"),
            cause=Cause.HOST,
            data=data,
        )

    def _send(self, found: Sequence[Departure]) -> None:
        """Ask for the next migrations, as many as may run and a few that stand by."""
        ready = [one for one in found if one.standing is Standing.WAITING and one.word and self._due(one)]
        chosen = []
        for mode in MigrationMode:
            under_way = sum(one.standing is Standing.MOVING and one.mode is mode for one in found)
            room = max(0, AHEAD * self._places(mode) - under_way)
            chosen += [self._child(one) for one in ready if one.mode is mode][:room]
        if chosen:
            failpoints.hit("drain.sending")
            self._manager.engine.accept(chosen)
            failpoints.hit("drain.sent")

    def _places(self, mode: MigrationMode) -> int:
        """How many migrations of a kind run at once."""
        option = self._manager.table["migrate"].limit_of({"mode": mode.value})
        return int(getattr(CONF, option)) if option else 1

    def _due(self, one: Departure) -> bool:
        """Whether a guest is to be sent now; one whose migration has just failed is given some time."""
        assert one.record is not None
        if one.record.state not in departures.MOVES_FROM:
            return False
        if one.operation is None:
            return True
        since = self._seen_failed.setdefault(one.operation.operation_id, time.monotonic())
        return time.monotonic() - since >= AGAIN_S * one.attempt

    def _child(self, one: Departure) -> Proposal:
        assert one.word is not None
        operation_id = departures.child_id(one.word, one.uuid, one.attempt)
        values = {
            "operation_id": operation_id,
            "parent_operation_id": self._id,
            "instance_uuid": one.uuid,
            "dest": one.word.dest,
            "mode": one.mode.value,
            "confirm": one.mode is MigrationMode.COLD,  # nobody goes back to a host that is drained
        }
        return propose(
            self._manager.table["migrate"],
            "migrate",
            operation_id,
            values,
            origin=Origin.AGENT,
            unique_id=operation_id,
            context=self._job.operation.context,
        )

    def _wait(self, found: Sequence[Departure]) -> None:
        """Until a child has ended, the drain is unwanted, or it is time to look again."""
        children = self._children(found)
        ends = [entry.ended for entry in self._manager.engine.entries if entry.operation_id in children]
        concurrency.wait_any((*ends, self._work.cancel_requested), self._work.remaining(LOOK_S))

    def _children(self, found: Sequence[Departure]) -> set[str]:
        """The ids of those that were asked for by this drain and have not ended."""
        moving = [one.operation for one in found if one.operation and one.standing is Standing.MOVING]
        return {one.operation_id for one in moving if one.parent_operation_id == self._id}

    # --- the end ---------------------------------------------------------------------------------------

    def _is_over(self, found: Sequence[Departure]) -> bool:
        """Whether none is left that could go, and what was kept here of those that went is gone, or late."""
        if not all(one.standing in OVER for one in found):
            self._over_since = None
            return False
        self._over_since = self._over_since or time.monotonic()
        children = {one.operation.operation_id for one in found if one.operation}
        kept = children & {held.migration_id for held in self._held()}
        return not kept or time.monotonic() - self._over_since > RELEASE_S

    def _close(self, drain: DrainRecord) -> bool:
        """Let no further word join; False if one has, or somebody has come."""

        def write(tx: Transaction) -> bool:
            here = {record.uuid for record in instances.every(tx)}
            if self._ours(tx) != drain or not here <= set(drain.guests):
                return False
            drains.put(tx, msgspec.structs.replace(drain, open=False))
            return True

        closed: bool = self._manager.store.insist(write)
        failpoints.hit("drain.closed")
        return closed

    def _end(self, found: Sequence[Departure]) -> dict[str, Any]:
        report = self._report(found) | {"unknown": self._unknown(), "set_aside": self._set_aside()}
        self._work.findings = report
        left = [one for one in found if one.standing not in GONE]
        if not left:
            return report
        lines = [f"{one.uuid}: {one.error.code}: {one.error.message}" for one in left if one.error]
        raise errors.MigrationFailed(
            f"{len(left)} of {len(found)} guests are still here",
            hint="the result says of each what keeps it; set that right and cast host_maintenance_mode again",
            evidence="\n".join(lines),
        )

    def _unknown(self) -> list[str]:
        """Domains that run here and are on nobody's record: not ours to move, but to know of."""
        try:
            return [orphan["id"] for orphan in adoption.list_orphans(self._manager, "domain")]
        except (errors.ComputeError, concurrency.TimedOut):
            return []

    def _set_aside(self) -> list[str]:
        """Instances that have left by a migration that may still be reverted to what is kept here."""
        return sorted({one.instance_uuid for one in self._held()})

    def _held(self) -> list[HandshakeRecord]:
        here = self._manager.identity.host
        return [one for one in self._manager.store.read(handshakes.holding) if one.source == here]

    def _call_back(self) -> None:
        """Ask the children to end: who has not left by then stays, where that can still be decided."""
        self._manager.store.insist(
            lambda tx: drains.put(tx, msgspec.structs.replace(self._ours(tx), open=False))
        )
        _drain, found = self._look()
        children = self._children(found)
        failpoints.hit("drain.calling_back")
        asked = [self._manager.engine.ask_to_end(operation_id) for operation_id in sorted(children)]
        deadline = time.monotonic() + CALL_BACK_S
        for entry in filter(None, asked):
            entry.ended.wait(max(0.0, deadline - time.monotonic()))
        self._look()


def _key(one: Departure) -> str:
    """What a placement is asked for on: the migration that failed; nothing if there was none."""
    return one.operation.operation_id if one.operation else ""


def _waits_for(found: Sequence[Departure]) -> str | None:
    texts = {
        Standing.MOVING: "{} to arrive",
        Standing.WAITING: "{} to be sent",
        Standing.ASKED: "a host for {}",
    }
    numbers = {standing: sum(one.standing is standing for one in found) for standing in texts}
    said = [texts[standing].format(number) for standing, number in numbers.items() if number]
    return ", ".join(said) or None

# SPDX-License-Identifier: Apache-2.0
"""Soft-deleted instances are destroyed when their time is over: ``reclaim_instance_interval``.

What can't be taken back must never come early. So the time is counted while the host is up, not read
from the wall clock: a clock that is wrong, jumps, or comes back wrong from a boot changes nothing. What was
counted is kept in the state file, with the boot in which it was; a boot costs at most :data:`KEEP_S` of it.

A reclaim is a ``destroy`` of the agent's own. It is asked for only while nothing is under way for the
instance, and with ``if_revision``: whoever restores it first has it.
"""

import logging
import math
import time
import uuid as uuids

import msgspec

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.manager.manager import Manager
from compute_agent.manager.reconcile import BOOT_ID
from compute_agent.model import clock, errors
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Origin
from compute_agent.model.states import InstanceState, PowerState
from compute_agent.operations.acceptance import propose
from compute_agent.store import host, instances, journal
from compute_agent.store.database import Transaction

LOG = logging.getLogger(__name__)

VERB = "destroy"
LOOK_S = 5.0
"""How often it is looked whose time is over, at most; a short interval is looked at more often."""
KEEP_S = 60.0
"""How often what was counted is written down, in seconds."""
AGAIN_S = 300.0
"""After how many seconds a reclaim that has failed is asked for again."""
MANY = 10_000
"""More instances than a host has."""
UP = frozenset({PowerState.RUNNING, PowerState.PAUSED})
KEY = "soft_deleted"
"""Under which it is kept what was counted."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """For how long an instance has been soft-deleted.

    :param boot_id: of the boot in which this was written down
    :param uptime_s: of the host, then
    :param counted_s: what had been counted by then
    """

    boot_id: str
    uptime_s: float
    counted_s: float = 0.0

    def now(self, boot_id: str, uptime_s: float) -> "Counted":
        """Return how it stands in that boot, at that time since it."""
        passed = max(0.0, uptime_s - self.uptime_s) if boot_id == self.boot_id else 0.0
        return Counted(boot_id=boot_id, uptime_s=uptime_s, counted_s=self.counted_s + passed)


Kept = dict[str, Counted]
"""What was counted, by the instances' uuids."""


def begin(tx: Transaction, uuid: str) -> None:
    """Count from now on: the instance is being soft-deleted."""
    _write(tx, kept(tx) | {uuid: Counted(boot_id=_boot_id(), uptime_s=clock.uptime())})


def end(tx: Transaction, uuid: str) -> None:
    """Count no more: the instance is being restored."""
    _write(tx, {other: found for other, found in kept(tx).items() if other != uuid})


def kept(tx: Transaction) -> Kept:
    """Return what was written down."""
    try:
        return msgspec.json.decode(host.get(tx, KEY) or "{}", type=Kept)
    except msgspec.MsgspecError:
        return {}


def _write(tx: Transaction, counted: Kept) -> None:
    host.put(tx, KEY, msgspec.json.encode(counted).decode())


def _boot_id() -> str:
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


def _deleted(tx: Transaction) -> dict[str, InstanceRecord]:
    """Return the soft-deleted instances by their uuids."""
    state = InstanceState.SOFT_DELETED.value
    found = instances.page(tx, state=state, managed=None, marker=None, limit=MANY)
    return {record.uuid: record for record in found}


class _Busy(Exception):
    """Something is under way for the instance."""


class Reclaimer:
    """Destroys soft-deleted instances whose time is over."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._boot_id = _boot_id()
        self._asked: dict[str, float] = {}
        self._kept_at = -math.inf

    def start(self) -> None:
        """Begin to look."""
        concurrency.spawn(self._run)

    def look(self) -> list[str]:
        """Ask for the reclaims that are due; return the ids of their operations."""
        counted = self._count()
        self._asked = {uuid: at for uuid, at in self._asked.items() if uuid in counted}
        interval = CONF.reclaim_instance_interval
        if not interval or self._manager.hypervisor_away is not None:
            return []
        due = [record for record, counted_s in counted.values() if counted_s >= interval]
        asked = [self._ask(record) for record in due if self._may_ask(record)]
        return [operation_id for operation_id in asked if operation_id is not None]

    def _count(self) -> dict[str, tuple[InstanceRecord, float]]:
        """Return the soft-deleted instances by uuid, and for how many seconds they have been so."""
        now = clock.uptime()
        deleted, known = self._manager.store.read(lambda tx: (_deleted(tx), kept(tx)))
        if deleted.keys() != known.keys() or now - self._kept_at >= KEEP_S:
            deleted, known = self._manager.store.write(lambda tx: self._keep(tx, now))
            self._kept_at = now
        stand = {uuid: known[uuid].now(self._boot_id, now).counted_s for uuid in deleted}
        return {uuid: (record, stand[uuid]) for uuid, record in deleted.items()}

    def _keep(self, tx: Transaction, now: float) -> tuple[dict[str, InstanceRecord], Kept]:
        """Write down what was counted. Of whom nothing was, the time begins now."""
        deleted, known = _deleted(tx), kept(tx)
        begun = Counted(boot_id=self._boot_id, uptime_s=now)
        counted = {uuid: known.get(uuid, begun).now(self._boot_id, now) for uuid in deleted}
        _write(tx, counted)
        return deleted, counted

    def _may_ask(self, record: InstanceRecord) -> bool:
        asked_at = self._asked.get(record.uuid)
        if asked_at is not None and time.monotonic() - asked_at < AGAIN_S:
            return False
        if record.power_state in UP:
            LOG.warning("soft-deleted instance %s is up: it is not reclaimed", record.uuid)
            self._asked[record.uuid] = time.monotonic()
            return False
        return True

    def _ask(self, record: InstanceRecord) -> str | None:
        """Have an instance destroyed, unless something is under way for it."""
        operation_id = str(uuids.uuid4())
        values = {"instance_uuid": record.uuid, "if_revision": record.revision}
        proposal = propose(self._manager.table[VERB], VERB, operation_id, values, origin=Origin.AGENT)

        def refuse_busy(tx: Transaction) -> None:
            if journal.busy(tx, record.uuid):
                raise _Busy

        try:
            self._manager.engine.accept([proposal], also=refuse_busy)
        except _Busy:
            return None
        LOG.info("soft-deleted instance %s is reclaimed by operation %s", record.uuid, operation_id)
        self._asked[record.uuid] = time.monotonic()
        return operation_id

    def _run(self) -> None:
        while True:
            interval = CONF.reclaim_instance_interval
            concurrency.sleep(min(LOOK_S, max(0.5, interval / 4)) if interval else LOOK_S)
            try:
                self.look()
            except errors.ComputeError as error:
                LOG.warning("soft-deleted instances stay for now: %s", error.message)
            except Exception:
                LOG.exception("soft-deleted instances could not be looked after")

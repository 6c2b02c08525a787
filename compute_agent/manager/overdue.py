# SPDX-License-Identifier: Apache-2.0
"""What the agent does by itself to an instance that has been in a state for long enough.

What can't be taken back must never come early. So the time is counted while the host is up, not read
from the wall clock: a clock that is wrong, jumps, or comes back wrong from a boot changes nothing. What was
counted is kept in the state file, with the boot in which it was; a boot costs at most :data:`KEEP_S` of it.

It is an operation of the agent's own. It is asked for only while nothing is under way for the
instance, and with ``if_revision``: who does something else first has it.
"""

import logging
import math
import time
import uuid as uuids
from typing import ClassVar

import msgspec

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.manager.manager import Manager
from compute_agent.manager.reconcile import BOOT_ID
from compute_agent.model import clock, errors
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Origin
from compute_agent.model.states import InstanceState
from compute_agent.operations.acceptance import propose
from compute_agent.store import host, instances, journal
from compute_agent.store.database import Transaction

LOG = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often it is looked whose time is over, at most; a short interval is looked at more often."""
KEEP_S = 60.0
"""How often what was counted is written down, in seconds."""
AGAIN_S = 300.0
"""After how many seconds an operation that has failed is asked for again."""
MANY = 10_000
"""More instances than a host has."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """For how long an instance has been in the state.

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

    @classmethod
    def from_now_on(cls) -> "Counted":
        """Return one of which the time begins now."""
        return cls(boot_id=read_boot_id(), uptime_s=clock.uptime())


Kept = dict[str, Counted]
"""What was counted, by the instances' uuids."""


def kept(tx: Transaction, key: str) -> Kept:
    """Return what was written down under a key."""
    try:
        return msgspec.json.decode(host.get(tx, key) or "{}", type=Kept)
    except msgspec.MsgspecError:
        return {}


def write(tx: Transaction, key: str, counted: Kept) -> None:
    """Write it down."""
    host.put(tx, key, msgspec.json.encode(counted).decode())


def read_boot_id() -> str:
    """Return which boot of the host this is; nothing if that is not known."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


class _Busy(Exception):
    """Something is under way for the instance."""


class Overdue:
    """Does a verb to instances whose time in a state is over.

    :cvar state: in which their time is counted
    :cvar verb: what is done to them then
    :cvar option: how many seconds that is; 0: it is not done
    :cvar key: under which it is kept what was counted
    """

    state: ClassVar[InstanceState]
    verb: ClassVar[str]
    option: ClassVar[str]
    key: ClassVar[str]

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._boot_id = read_boot_id()
        self._asked: dict[str, float] = {}
        self._kept_at = -math.inf

    @property
    def interval(self) -> float:
        """After how many seconds it is done; 0: never."""
        return float(getattr(CONF, self.option))

    def start(self) -> None:
        """Begin to look."""
        concurrency.spawn(self._run)

    def objection(self, record: InstanceRecord) -> str | None:
        """Return why it may not be done to an instance although its time is over; None if it may."""
        return None

    def look(self) -> list[str]:
        """Ask for the operations that are due; return their ids."""
        counted = self._count()
        self._asked = {uuid: at for uuid, at in self._asked.items() if uuid in counted}
        interval = self.interval
        if not interval or self._manager.hypervisor_away is not None:
            return []
        due = [record for record, counted_s in counted.values() if counted_s >= interval]
        asked = [self._ask(record) for record in due if self._may_ask(record)]
        return [operation_id for operation_id in asked if operation_id is not None]

    def _concerned(self, tx: Transaction) -> dict[str, InstanceRecord]:
        """Return the instances in that state by their uuids."""
        found = instances.page(tx, state=self.state.value, managed=None, marker=None, limit=MANY)
        return {record.uuid: record for record in found}

    def _count(self) -> dict[str, tuple[InstanceRecord, float]]:
        """Return the instances in that state by uuid, and for how many seconds they have been so."""
        now = clock.uptime()
        there, known = self._manager.store.read(lambda tx: (self._concerned(tx), kept(tx, self.key)))
        if there.keys() != known.keys() or now - self._kept_at >= KEEP_S:
            there, known = self._manager.store.write(lambda tx: self._keep(tx, now))
            self._kept_at = now
        stand = {uuid: known[uuid].now(self._boot_id, now).counted_s for uuid in there}
        return {uuid: (record, stand[uuid]) for uuid, record in there.items()}

    def _keep(self, tx: Transaction, now: float) -> tuple[dict[str, InstanceRecord], Kept]:
        """Write down what was counted. Of whom nothing was, the time begins now."""
        there, known = self._concerned(tx), kept(tx, self.key)
        begun = Counted(boot_id=self._boot_id, uptime_s=now)
        counted = {uuid: known.get(uuid, begun).now(self._boot_id, now) for uuid in there}
        write(tx, self.key, counted)
        return there, counted

    def _may_ask(self, record: InstanceRecord) -> bool:
        asked_at = self._asked.get(record.uuid)
        if asked_at is not None and time.monotonic() - asked_at < AGAIN_S:
            return False
        objection = self.objection(record)
        if objection is not None:
            LOG.warning("no %s of instance %s: %s", self.verb, record.uuid, objection)
            self._asked[record.uuid] = time.monotonic()
        return objection is None

    def _ask(self, record: InstanceRecord) -> str | None:
        """Have it done to an instance, unless something is under way for it."""
        operation_id = str(uuids.uuid4())
        values = {"instance_uuid": record.uuid, "if_revision": record.revision}
        proposal = propose(
            self._manager.table[self.verb], self.verb, operation_id, values, origin=Origin.AGENT
        )

        def refuse_busy(tx: Transaction) -> None:
            if journal.busy(tx, record.uuid):
                raise _Busy

        try:
            self._manager.engine.accept([proposal], also=refuse_busy)
        except _Busy:
            return None
        LOG.info("%s of %s instance %s: operation %s", self.verb, self.state, record.uuid, operation_id)
        self._asked[record.uuid] = time.monotonic()
        return operation_id

    def _run(self) -> None:
        while True:
            interval = self.interval
            concurrency.sleep(min(LOOK_S, max(0.5, interval / 4)) if interval else LOOK_S)
            try:
                self.look()
            except errors.ComputeError as error:
                LOG.warning("%s instances stay so for now: %s", self.state, error.message)
            except Exception:
                LOG.exception("%s instances could not be looked after", self.state)

# SPDX-License-Identifier: Apache-2.0
"""Comparing the record with the hypervisor, after the agent or the hypervisor was away.

The hypervisor keeps no history, so what happened meanwhile is told as differences found
(``observed: reconciled``). Nothing is done about them: a domain that is missing is reported,
one that nobody knows is reported and left alone.
"""

import json
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from compute_agent.conf import CONF
from compute_agent.manager import adoption, host, noting
from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.event import Cause, EventType
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import OperationState
from compute_agent.model.states import SETTLED, InstanceState, PowerState, change
from compute_agent.operations import telling, turns
from compute_agent.operations.verbs import Verb
from compute_agent.store import directory, instances, journal, outbox
from compute_agent.store import host as host_store
from compute_agent.store.database import Transaction
from compute_agent.virt.info import Description, InstanceInfo

LOG = logging.getLogger(__name__)

BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
BOOT_KEY = "boot_id"
RAN_KEY = "ran_before_boot"
"""Kept from the host's boot until its policy was followed."""
ORPHANS = "orphans_told"


def compare(manager: Manager) -> None:
    """Take over what the hypervisor shows, and tell what differs from the record.

    :raises HypervisorUnavailable: if it does not answer
    """
    records = {record.uuid: record for record in manager.store.read(_at_rest)}
    seen = manager.driver.get_all_info()
    for uuid, record in records.items():
        info = seen.get(uuid)
        if info is None:
            _missing(manager, record)
        elif noting.differs(record, info.state):
            _changed(manager, record, info)
    _unknown(manager, seen)


def _at_rest(tx: Transaction) -> list[InstanceRecord]:
    """The instances that no operation is in the middle of: that one finds out itself.

    One that waits its turn may end without having looked, being refused or cancelled.
    """
    return [record for record in instances.every(tx) if not journal.worked_on(tx, record.uuid)]


def _untouched(tx: Transaction, record: InstanceRecord) -> bool:
    """Whether nothing has happened to an instance since its record was read."""
    found = instances.find(tx, record.uuid)
    return found is not None and found.revision == record.revision and not journal.worked_on(tx, record.uuid)


def _changed(manager: Manager, record: InstanceRecord, info: InstanceInfo) -> None:
    noting.note_difference(
        manager,
        record,
        info.state,
        Cause.UNKNOWN,
        owned=record.state not in SETTLED,
        if_still=lambda tx: _untouched(tx, record),
    )


def _missing(manager: Manager, record: InstanceRecord) -> None:
    if record.state is InstanceState.ERROR and record.power_state is PowerState.NOSTATE:
        return  # told before
    error = errors.HypervisorError(
        "the hypervisor has no domain of this instance any more; somebody removed it",
        hint="destroy strikes it from the record and removes its disks; rebuild makes it anew",
    )

    def write(tx: Transaction) -> None:
        if not _untouched(tx, record):
            return
        state = change(record.state, InstanceState.ERROR)
        now = msgspec.structs.replace(
            record, power_state=PowerState.NOSTATE, state=state, error=error.to_error()
        )
        now = instances.put(tx, now)
        outbox.append(
            tx,
            EventType.LIFECYCLE_STOPPED,
            instance=now,
            data={
                "power_state": PowerState.NOSTATE.value,
                "detail": "domain missing",
                "observed": "reconciled",
            },
        )
        telling.tell_record(tx, EventType.INSTANCE_UPDATED, now)

    manager.store.insist(write)


def _unknown(manager: Manager, seen: Mapping[str, InstanceInfo]) -> None:
    """Take on record again what the state file has lost, and report what is not ours."""
    if manager.store.read(lambda tx: host_store.get(tx, directory.RESET)):
        for uuid, info in seen.items():
            description = manager.driver.get_description(uuid)
            if description is not None and not _on_record(manager, uuid, description.generation):
                _adopt_again(manager, info, description)
    _report_orphans(manager, {orphan["id"]: orphan for orphan in adoption.list_orphans(manager)})


def _on_record(manager: Manager, uuid: str, generation: int) -> bool:
    """Whether there is a record, be it a tombstone of that placement, or an operation that makes one."""

    def look(tx: Transaction) -> bool:
        record = instances.find(tx, uuid)
        outlived = record is not None and record.gone and record.generation < generation
        return (record is not None and not outlived) or journal.busy(tx, uuid)

    return manager.store.read(look)


def _adopt_again(manager: Manager, info: InstanceInfo, description: Description) -> None:
    try:
        record = adoption.record_of(info, description)
    except errors.InvalidArguments as error:
        LOG.warning("%s", error.message)
        return
    LOG.warning("taking instance %s on record again, from its domain's description", record.uuid)

    def write(tx: Transaction) -> None:
        telling.tell_record(tx, EventType.INSTANCE_UPDATED, instances.put(tx, record))

    manager.store.insist(write)


def _report_orphans(manager: Manager, found: Mapping[str, dict[str, Any]]) -> None:
    """Tell each orphan once, for as long as it is there."""

    def write(tx: Transaction) -> None:
        told = set(json.loads(host_store.get(tx, ORPHANS) or "[]"))
        for orphan_id in sorted(found.keys() - told):
            LOG.warning("%s is on nobody's record; it is left alone", orphan_id)
            outbox.append(tx, EventType.HOST_ORPHAN_FOUND, cause=Cause.HOST, data=found[orphan_id])
        host_store.put(tx, ORPHANS, json.dumps(sorted(found)))

    manager.store.insist(write)


# --- after the host has booted -----------------------------------------------------------------------


def after_start(manager: Manager) -> None:
    """Compare, at the agent's start or when the hypervisor is back.

    What ran before the host booted is dealt with as configured; a new state file has been
    filled when this returns.

    :raises HypervisorUnavailable: if it does not answer; to be called again when it does
    """
    boot_id = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    manager.store.insist(lambda tx: _note_boot(tx, boot_id, manager.table))
    compare(manager)
    ran = manager.store.read(lambda tx: host_store.get(tx, RAN_KEY))
    if ran is not None:
        _follow_policy(manager, json.loads(ran))

    def write(tx: Transaction) -> None:
        host_store.drop(tx, RAN_KEY)
        host_store.drop(tx, directory.RESET)

    manager.store.insist(write)


def _note_boot(tx: Transaction, boot_id: str, table: Mapping[str, Verb]) -> None:
    """Keep who ran before the host booted: the comparison is about to find them stopped.

    Where a word is awaited for each, what was asked before the boot starts nobody either: a guest may
    have been placed on another host since.
    """
    if host_store.get(tx, BOOT_KEY) not in (None, boot_id):
        ran = {record.uuid for record in instances.every(tx) if _runs(record)}
        ran |= set(json.loads(host_store.get(tx, RAN_KEY) or "[]"))
        host_store.put(tx, RAN_KEY, json.dumps(sorted(ran)))
        if CONF.on_host_boot == "confirm":
            _end_starts(tx, table)
    host_store.put(tx, BOOT_KEY, boot_id)


def _end_starts(tx: Transaction, table: Mapping[str, Verb]) -> None:
    """End what was to start a guest, whether it had begun or not."""
    error = errors.Interrupted("the host has booted since this was asked, and on_host_boot is confirm")
    for operation in journal.live(tx):
        verb = table.get(operation.verb)
        if verb is not None and verb.starts:
            began = operation.state is OperationState.RUNNING
            turns.end(tx, verb, operation, error, left=("what it did before the boot",) if began else ())


def _follow_policy(manager: Manager, ran: list[str]) -> None:
    if CONF.on_host_boot == "resume":
        stopped = manager.store.read(lambda tx: _stopped(tx, ran))
        host.start(manager, [record.uuid for record in stopped])
    elif CONF.on_host_boot == "confirm":
        manager.store.insist(lambda tx: _say_hello(tx, ran))


def _stopped(tx: Transaction, uuids: Iterable[str]) -> list[InstanceRecord]:
    found = [instances.find(tx, uuid) for uuid in uuids]
    return [record for record in found if record is not None and _is_off(record)]


def _runs(record: InstanceRecord) -> bool:
    """Whether an instance is one that should run: one that was resized stays so, on or off."""
    resized = record.state is InstanceState.RESIZED and record.power_state is PowerState.RUNNING
    return resized or record.state is InstanceState.ACTIVE


def _is_off(record: InstanceRecord) -> bool:
    resized = record.state is InstanceState.RESIZED and record.power_state in noting.OFF
    return resized or record.state is InstanceState.STOPPED


def _say_hello(tx: Transaction, ran: list[str]) -> None:
    awaiting = set(ran) | set(json.loads(host_store.get(tx, host.AWAITING) or "[]"))
    held = _stopped(tx, sorted(awaiting))
    host_store.put(tx, host.AWAITING, json.dumps([record.uuid for record in held]))
    outbox.append(
        tx,
        EventType.HOST_HELLO,
        cause=Cause.HOST,
        data={"instances": [{"uuid": r.uuid, "generation": r.generation} for r in held]},
    )

# SPDX-License-Identifier: Apache-2.0
"""Taking domains on record that the agent did not make, striking them, and clearing orphans.

None of it touches a guest but ``destroy_orphan``, which is asked for by name.
"""

from typing import Any

import msgspec

from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.arguments import Adopt
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.operation import Lane
from compute_agent.model.states import FOLLOWED, InstanceState
from compute_agent.operations.verbs import Job, Outcome, verb
from compute_agent.store import handshakes, instances, journal
from compute_agent.store.database import Transaction
from compute_agent.virt.info import Description, InstanceInfo


@verb("adopt", optional=True, probe="the record")
def adopt(manager: Manager, job: Job) -> Outcome:
    """Take a domain on record without touching it, described by the caller or by the domain itself."""
    if job.record is not None:
        return Outcome({"already": True}, state=job.record.state)
    wanted: Adopt = job.arguments
    uuid = wanted.instance_uuid
    if wanted.instance is not None and wanted.instance.uuid != uuid:
        raise errors.InvalidArguments("instance.uuid is not instance_uuid")
    info = manager.driver.get_all_info().get(uuid)
    if info is None:
        raise errors.InstanceNotFound(f"the hypervisor has no domain {uuid}")
    record = record_of(info, manager.driver.get_description(uuid), wanted.instance)
    return Outcome({"instance_uuid": uuid, "managed": record.managed}, change=lambda _nothing: record)


def record_of(
    info: InstanceInfo, description: Description | None, told: Instance | None = None
) -> InstanceRecord:
    """Return a record for a domain: as told, else as its description says, else what can be seen.

    :raises InvalidArguments: if no instance may be what the domain is, such as its name
    """
    described = description.instance if description else None
    instance = told or described or _seen(info)
    generation = max(instance.generation, description.generation if description else 0)
    instance = _checked(msgspec.structs.replace(instance, name=info.name, generation=generation))
    state = FOLLOWED.get(info.state, InstanceState.STOPPED)
    if description is not None and description.rescued:
        state = InstanceState.RESCUED
    return InstanceRecord(
        uuid=info.uuid,
        instance=instance,
        state=state,
        power_state=info.state,
        generation=generation,
        managed=described is not None,
        operation_id=description.operation_id if description else None,
    )


def _checked(instance: Instance) -> Instance:
    """Return what a record could hold: one with another name could not be read back."""
    try:
        return msgspec.convert(msgspec.to_builtins(instance), Instance)
    except msgspec.ValidationError as error:
        raise errors.InvalidArguments(f"domain {instance.uuid} can't be an instance: {error}") from None


def _seen(info: InstanceInfo) -> Instance:
    flavor = Flavor(vcpus=max(1, info.num_cpu), memory_mb=max(1, info.max_mem_kb // 1024))
    return Instance(uuid=info.uuid, name=info.name, flavor=flavor)


@verb("forget", probe="the record")
def forget(manager: Manager, job: Job) -> Outcome:
    """Strike an instance from the record. Its guest and its disks stay as they are."""
    return Outcome({"instance_uuid": job.instance.uuid}, forgotten=True)


@verb("destroy_orphan", lane=Lane.HOST, probe="no such orphan")
def destroy_orphan(manager: Manager, job: Job) -> Outcome:
    """Remove an orphan that ``list_orphans`` named: a domain or files that no record accounts for."""
    orphan_id = job.arguments.orphan_id
    found = {orphan["id"]: orphan for orphan in list_orphans(manager)}
    if orphan_id not in found:
        return Outcome({"warning": f"no orphan {orphan_id}: nothing was done"})
    manager.driver.destroy_orphan(orphan_id)
    return Outcome({"orphan": found[orphan_id]})


def list_orphans(manager: Manager, kind: str | None = None) -> list[dict[str, Any]]:
    """Return what is at the hypervisor or on its disks, and on nobody's record."""
    found = manager.driver.list_orphans(manager.store.read(_known))
    known = manager.store.read(_known)  # again: something may have been made meanwhile
    orphans = [
        msgspec.to_builtins(orphan) for orphan in found if not any(uuid in orphan.id for uuid in known)
    ]
    return [orphan for orphan in orphans if kind is None or orphan["kind"] == kind]


def _known(tx: Transaction) -> set[str]:
    on_record = {record.uuid for record in instances.every(tx)}
    on_record |= {record.instance_uuid for record in handshakes.holding(tx)}
    return on_record | {operation.instance_uuid for operation in journal.live(tx) if operation.instance_uuid}

# SPDX-License-Identifier: Apache-2.0
"""Verbs that bring an instance, take it away, or make it anew."""

import msgspec

from compute_agent.manager import confirming, reclaim
from compute_agent.manager.manager import Manager, block_device_info, request_context
from compute_agent.model import arguments, errors
from compute_agent.model.block_device import SourceType
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.states import InstanceState as S
from compute_agent.operations.verbs import Job, OnFailure, Outcome, Recovery, verb

_REFRESH = "refresh_instance_security_rules"


@verb(
    "spawn",
    makes=True,
    working=S.BUILDING,
    limit="max_concurrent_builds",
    lifecycle=("started",),
    on_failure=OnFailure.REMOVE,
    probe="the domain, its disks and its description at the hypervisor",
)
def spawn(manager: Manager, job: Job) -> Outcome:
    """Make an instance and start it (paused, with ``start_paused``)."""
    instance = job.instance.instance
    wanted: arguments.Spawn = job.arguments
    manager.driver.spawn(
        request_context(),
        instance,
        instance.image,
        wanted.injected_files,
        wanted.admin_password,
        {},
        instance.network_info,
        block_device_info(instance),
    )
    return Outcome(follow=True)


@verb(
    "evacuate",
    makes=True,
    working=S.BUILDING,
    limit="max_concurrent_builds",
    lifecycle=("started",),
    on_failure=OnFailure.REMOVE,
    probe="the domain and the owner file beside its disks",
)
def evacuate(manager: Manager, job: Job) -> Outcome:
    """Bring an instance from a host that is off."""
    wanted: arguments.Evacuate = job.arguments
    if not wanted.fenced:
        raise errors.PreconditionFailed(
            "nobody says that the old host is off: the guest might run twice",
            hint="see to it that it is off, then send fenced=true",
        )
    instance = job.instance.instance
    reuse = wanted.disks is arguments.Disks.REUSE
    manager.driver.rebuild(
        request_context(),
        instance,
        None if reuse else instance.image,
        [],
        None,
        {},
        instance.block_device_mapping,
        None,
        None,
        network_info=instance.network_info,
        recreate=True,
        block_device_info=block_device_info(instance),
        preserve_ephemeral=reuse,
    )
    return Outcome(follow=True)


@verb(
    "destroy",
    optional=True,
    preempts=True,
    lifecycle=("stopped",),
    probe="no domain, and no files unless they are to be kept",
)
def destroy(manager: Manager, job: Job) -> Outcome:
    """Take an instance away. What is queued or running for it is cancelled first."""
    if job.record is None:
        return Outcome({"warning": f"no instance {job.operation.instance_uuid} on record: nothing was done"})
    instance = job.record.instance
    manager.driver.destroy(
        request_context(),
        instance,
        instance.network_info,
        block_device_info(instance),
        destroy_disks=job.arguments.destroy_disks,
    )
    confirming.give_up_return(manager, job)
    if job.arguments.destroy_disks and manager.driver.instance_on_disk(instance):
        kept = "its files stay: they belong to another host or to a later placement"
        return Outcome({"warning": kept, "files_kept": True}, gone=True)
    return Outcome(gone=True)


@verb(
    "rebuild",
    starts_from=frozenset({S.ACTIVE, S.STOPPED, S.ERROR}),
    limit="max_concurrent_builds",
    lifecycle=("stopped", "started"),
    on_failure=OnFailure.AS_BEFORE,
    probe="the disk's base and the domain's description name the operation",
)
def rebuild(manager: Manager, job: Job) -> Outcome:
    """Make an instance anew from another image, keeping its identity, NICs and volumes."""
    wanted: arguments.Rebuild = job.arguments
    instance = _with_image(job.instance.instance, wanted.image)
    manager.driver.rebuild(
        request_context(),
        instance,
        wanted.image,
        wanted.injected_files,
        wanted.admin_password,
        {},
        instance.block_device_mapping,
        None,
        None,
        network_info=instance.network_info,
        block_device_info=block_device_info(instance),
        preserve_ephemeral=wanted.preserve_ephemeral,
    )

    def change(record: InstanceRecord) -> InstanceRecord:
        return msgspec.structs.replace(record, instance=_with_image(record.instance, wanted.image))

    return Outcome(change=change, follow=True)


def _with_image(instance: Instance, image: Image) -> Instance:
    """Return ``instance`` with another image for its root disk, also where a block device names that."""
    devices = [
        msgspec.structs.replace(device, image=image)
        if device.source_type is SourceType.IMAGE and device.boot_index == 0 and device.image is not None
        else device
        for device in instance.block_device_mapping
    ]
    return msgspec.structs.replace(instance, image=image, block_device_mapping=devices)


@verb("update_instance", probe="the record", recovery=Recovery.REPEAT)
def update_instance(manager: Manager, job: Job) -> Outcome:
    """Take over what the scheduler has changed in an instance's description."""
    wanted: arguments.UpdateInstance = job.arguments
    names = ("network_info", "block_device_mapping", "metadata", "security_groups")
    fresh = {name: value for name in names if (value := getattr(wanted, name)) is not None}
    generation = job.instance.generation if wanted.generation is None else wanted.generation

    def change(record: InstanceRecord) -> InstanceRecord:
        instance = msgspec.structs.replace(record.instance, generation=generation, **fresh)
        return msgspec.structs.replace(record, instance=instance, generation=generation)

    described = change(job.instance).instance
    manager.driver.set_description(described)
    if {"network_info", "security_groups"} & fresh.keys() and manager.supports(_REFRESH):
        manager.driver.refresh_instance_security_rules(described)
    return Outcome({"changed": sorted(fresh)}, change=change)


@verb(
    "soft_delete",
    starts_from=frozenset({S.ACTIVE, S.STOPPED}),
    already=frozenset({S.SOFT_DELETED}),
    lifecycle=("stopped",),
    probe="the guest is off",
)
def soft_delete(manager: Manager, job: Job) -> Outcome:
    """Switch an instance off and keep its disks until they are reclaimed."""
    uuid = job.instance.uuid
    manager.driver.soft_delete(job.instance.instance)
    manager.store.insist(lambda tx: reclaim.begin(tx, uuid))
    return Outcome(state=S.SOFT_DELETED)


@verb(
    "restore",
    starts_from=frozenset({S.SOFT_DELETED}),
    already=frozenset({S.ACTIVE}),
    lifecycle=("started",),
    probe="the guest runs",
)
def restore(manager: Manager, job: Job) -> Outcome:
    """Bring a soft-deleted instance back."""
    uuid = job.instance.uuid
    manager.driver.restore(job.instance.instance)
    manager.store.insist(lambda tx: reclaim.end(tx, uuid))
    return Outcome(follow=True)

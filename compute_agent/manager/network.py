# SPDX-License-Identifier: Apache-2.0
"""Verbs on network interfaces and their filters."""

import msgspec

from compute_agent.manager.manager import Manager, request_context
from compute_agent.model import errors
from compute_agent.model.event import EventType
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Lane
from compute_agent.model.security_group import PROVIDER, SecurityGroup, SecurityGroupRule
from compute_agent.model.states import InstanceState as S
from compute_agent.model.vif import Vif
from compute_agent.operations import telling
from compute_agent.operations.verbs import Job, Outcome, verb
from compute_agent.store import groups, instances
from compute_agent.store.database import Transaction

ATTACHABLE = frozenset({S.ACTIVE, S.PAUSED, S.STOPPED})


def _with(record: InstanceRecord, vifs: list[Vif]) -> InstanceRecord:
    return msgspec.structs.replace(
        record, instance=msgspec.structs.replace(record.instance, network_info=vifs)
    )


def _grouped(record: InstanceRecord, groups: list[SecurityGroup]) -> InstanceRecord:
    return msgspec.structs.replace(
        record, instance=msgspec.structs.replace(record.instance, security_groups=groups)
    )


def _ruled(record: InstanceRecord, group_id: str, rules: list[SecurityGroupRule]) -> InstanceRecord:
    """Return a record in which a group, if the instance is of it and brought its rules, has these."""
    theirs = record.instance.security_groups
    if not any(group.id == group_id and group.rules for group in theirs):
        return record
    fresh = SecurityGroup(id=group_id, rules=rules)
    return _grouped(record, [fresh if group.id == group_id else group for group in theirs])


@verb("attach_interface", starts_from=ATTACHABLE, probe="the domain's interfaces")
def attach_interface(manager: Manager, job: Job) -> Outcome:
    """Give an instance a network interface."""
    vif: Vif = job.arguments.vif
    instance = job.instance.instance
    manager.driver.attach_interface(request_context(), instance, instance.image, vif)

    def change(record: InstanceRecord) -> InstanceRecord:
        return _with(record, [*(v for v in record.instance.network_info if v.id != vif.id), vif])

    return Outcome(change=change)


@verb("detach_interface", starts_from=ATTACHABLE, probe="the domain's interfaces")
def detach_interface(manager: Manager, job: Job) -> Outcome:
    """Take a network interface from an instance."""
    vif_id = job.arguments.vif_id
    instance = job.instance.instance
    vif = next((v for v in instance.network_info if v.id == vif_id), None)
    if vif is None:
        raise errors.InvalidArguments(f"interface {vif_id} is not attached")
    manager.driver.detach_interface(request_context(), instance, vif)
    return Outcome(
        change=lambda record: _with(record, [v for v in record.instance.network_info if v.id != vif_id])
    )


@verb("refresh_security_group_rules", lane=Lane.HOST, probe="the filters")
def refresh_security_group_rules(manager: Manager, job: Job) -> Outcome:
    """Take over a group's rules and apply them to its members here.

    What was told last holds: rules that came with an instance of the group are replaced.
    """
    wanted = job.arguments
    _supported(manager, job)

    def write(tx: Transaction) -> None:
        groups.put_rules(tx, wanted.group_id, wanted.rules)
        for record in instances.every(tx):
            fresh = _ruled(record, wanted.group_id, wanted.rules)
            if fresh != record:
                telling.tell_record(tx, EventType.INSTANCE_UPDATED, instances.put(tx, fresh))

    manager.store.write(write)
    manager.driver.refresh_security_group_rules(wanted.group_id)
    return Outcome()


@verb("refresh_security_group_members", lane=Lane.HOST, probe="the filters")
def refresh_security_group_members(manager: Manager, job: Job) -> Outcome:
    """Take over a group's members on all hosts, and apply the rules that refer to them."""
    wanted = job.arguments
    _supported(manager, job)

    def write(tx: Transaction) -> None:
        groups.put_members(tx, wanted.group_id, wanted.members)

    manager.store.write(write)
    manager.driver.refresh_security_group_members(wanted.group_id)
    return Outcome()


@verb("refresh_instance_security_rules", lane=Lane.HOST, probe="the filters")
def refresh_instance_security_rules(manager: Manager, job: Job) -> Outcome:
    """Take over an instance's groups, and apply them."""
    wanted = job.arguments

    def change(record: InstanceRecord) -> InstanceRecord:
        return _grouped(record, wanted.security_groups)

    manager.driver.refresh_instance_security_rules(change(job.instance).instance)
    return Outcome(change=change)


@verb("refresh_provider_fw_rules", lane=Lane.HOST, probe="the filters")
def refresh_provider_fw_rules(manager: Manager, job: Job) -> Outcome:
    """Take over the rules that win over every group's, and apply them."""
    _supported(manager, job)

    def write(tx: Transaction) -> None:
        groups.put_rules(tx, PROVIDER, job.arguments.rules)

    manager.store.write(write)
    manager.driver.refresh_provider_fw_rules()
    return Outcome()


def _supported(manager: Manager, job: Job) -> None:
    if not manager.supports(job.operation.verb):
        raise errors.UnsupportedOperation(f"the driver does not do {job.operation.verb}")

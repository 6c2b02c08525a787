# SPDX-License-Identifier: Apache-2.0
"""Questions about what is on record. The hypervisor is not asked."""

from typing import Any

import msgspec

from compute_agent.manager.manager import Manager
from compute_agent.manager.questions.paging import page_of
from compute_agent.model import clock, errors, questions
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Lane, Operation
from compute_agent.model.secrets import redacted
from compute_agent.store import host, instances, journal
from compute_agent.store.database import Transaction


def get_instance(manager: Manager, asked: questions.AboutInstance) -> dict[str, Any]:
    """An instance's record, without secrets."""
    return dict(redacted(manager.store.read(lambda tx: instances.get(tx, asked.instance_uuid))))


def list_instances(manager: Manager, asked: questions.ListInstances) -> dict[str, Any]:
    """Records in the order of their uuids, a page at a time."""

    def read(tx: Transaction) -> dict[str, Any]:
        found = instances.page(
            tx,
            state=asked.state.value if asked.state else None,
            managed=asked.managed,
            marker=asked.marker,
            limit=asked.limit + 1,
        )
        page, more = page_of([_chosen(record, asked.fields) for record in found], asked.limit)
        return {"instances": page, "next_marker": page[-1]["uuid"] if more else None}

    return manager.store.read(read)


def _chosen(record: InstanceRecord, names: list[str] | None) -> dict[str, Any]:
    values: dict[str, Any] = redacted(record)
    if names is None:
        return values
    if unknown := set(names) - values.keys():
        raise errors.InvalidArguments(f"unknown fields: {', '.join(sorted(unknown))}")
    return {name: values[name] for name in {"uuid", *names}}


def list_instance_uuids(manager: Manager, asked: questions.Nothing) -> dict[str, Any]:
    """The uuids of all instances on record."""
    return {"uuids": [record.uuid for record in manager.store.read(instances.every)]}


def get_operation(manager: Manager, asked: questions.GetOperation) -> dict[str, Any]:
    """An operation's record, with its step, progress and place in line while it lives."""
    operation = manager.store.read(lambda tx: journal.find(tx, asked.operation_id))
    if operation is None:
        raise errors.OperationNotFound(f"no operation {asked.operation_id} on record")
    return _plain(manager, operation)


def _plain(manager: Manager, operation: Operation) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(manager.engine.overlay(operation))
    return values


def list_operations(manager: Manager, asked: questions.ListOperations) -> dict[str, Any]:
    """Operations, newest first, a page at a time."""
    since = asked.since
    if since is not None:
        try:
            since = clock.timestamp(clock.parse(since))
        except ValueError:
            raise errors.InvalidArguments(f"since is not RFC 3339: {since}") from None
    found = manager.store.read(
        lambda tx: journal.page(
            tx,
            state=asked.state.value if asked.state else None,
            verb=asked.verb,
            since=since,
            instance_uuid=asked.instance_uuid,
            marker=asked.marker,
            limit=asked.limit + 1,
        )
    )
    page, more = page_of([_plain(manager, operation) for operation in found], asked.limit)
    return {"operations": page, "next_marker": page[-1]["operation_id"] if more else None}


def explain(manager: Manager, asked: questions.AboutInstance) -> dict[str, Any]:
    """What an instance does, since when, what it waits for, and what may be done."""

    def read(tx: Transaction) -> tuple[InstanceRecord, list[Operation], dict[str, str]]:
        record = instances.get(tx, asked.instance_uuid)
        recent = journal.page(
            tx, state=None, verb=None, since=None, instance_uuid=record.uuid, marker=None, limit=5
        )
        return record, recent, host.reasons(tx)

    record, recent, reasons = manager.store.read(read)
    live = [manager.engine.overlay(operation) for operation in recent if not operation.ended]
    return {
        "instance_uuid": record.uuid,
        "state": record.state.value,
        "power_state": record.power_state.name,
        "since": record.updated_at,
        "error": msgspec.to_builtins(record.error),
        "doing": [msgspec.to_builtins(operation) for operation in live],
        "waiting_for": [operation.waiting_for for operation in live if operation.waiting_for],
        "recent": [msgspec.to_builtins(operation) for operation in recent if operation.ended],
        "may_start": _may_start(manager, record),
        "host_reasons": reasons,
        "advice": _advice(manager, record, live),
    }


def _may_start(manager: Manager, record: InstanceRecord) -> list[str]:
    return sorted(
        verb.name
        for verb in manager.table.values()
        if verb.about_instance
        and verb.lane is Lane.INSTANCE
        and not verb.makes
        and (verb.starts_from is None or record.state in verb.starts_from)
        and manager.supports(verb.name)
    )


def _advice(manager: Manager, record: InstanceRecord, live: list[Operation]) -> str:
    if manager.hypervisor_away is not None:
        return f"the hypervisor is away ({manager.hypervisor_away}): verbs wait for it until their deadline"
    if live:
        return f"{live[-1].verb} is under way; cancel_operation {live[-1].operation_id} stops it"
    if record.error is not None:
        return record.error.hint or record.error.message
    return "nothing is under way"


ANSWERS = {
    "get_instance": get_instance,
    "list_instances": list_instances,
    "list_instance_uuids": list_instance_uuids,
    "get_operation": get_operation,
    "list_operations": list_operations,
    "explain": explain,
}

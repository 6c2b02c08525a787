# SPDX-License-Identifier: Apache-2.0
"""Verbs on the host as a whole."""

import json

from compute_agent.conf import CONF
from compute_agent.manager.manager import Manager
from compute_agent.model import errors
from compute_agent.model.event import Cause, EventType
from compute_agent.model.operation import Lane, Origin
from compute_agent.operations.acceptance import propose
from compute_agent.operations.verbs import Job, Outcome, Recovery, verb
from compute_agent.store import host as host_store
from compute_agent.store import outbox
from compute_agent.store.database import Transaction

AWAITING = "awaiting_confirmation"
"""Where the uuids of those are kept that ran before the host booted and wait for a word."""


@verb("set_host_enabled", lane=Lane.HOST, probe="the record")
def set_host_enabled(manager: Manager, job: Job) -> Outcome:
    """Let the host take new guests, or not. The agent's own reasons against it are kept apart."""
    wanted = job.arguments
    if wanted.enabled:
        enable(manager, host_store.OPERATOR, job.operation.operation_id)
    else:
        disable(manager, host_store.OPERATOR, wanted.reason or "by an operator", job.operation.operation_id)
    manager.driver.set_host_enabled(wanted.enabled)
    return Outcome({"reasons": manager.store.read(host_store.reasons)})


def disable(manager: Manager, owner: str, reason: str, operation_id: str | None = None) -> None:
    """Keep ``owner``'s reason against new guests, and tell it when it is new."""
    manager.store.insist(lambda tx: object_in(tx, owner, reason, operation_id))


def object_in(tx: Transaction, owner: str, reason: str, operation_id: str | None = None) -> None:
    """As :func:`disable`, in a transaction that does more."""
    if host_store.object_to_guests(tx, owner, reason):
        _tell(tx, EventType.HOST_DISABLED, owner, reason, operation_id)


def enable(manager: Manager, owner: str, operation_id: str | None = None) -> None:
    """Strike ``owner``'s reason, and tell it when there was one."""
    manager.store.insist(lambda tx: lift_in(tx, owner, operation_id))


def lift_in(tx: Transaction, owner: str, operation_id: str | None = None) -> None:
    """As :func:`enable`, in a transaction that does more."""
    if host_store.lift_objection(tx, owner):
        _tell(tx, EventType.HOST_ENABLED, owner, None, operation_id)


def _tell(tx: Transaction, kind: EventType, owner: str, reason: str | None, operation_id: str | None) -> None:
    left = host_store.reasons(tx)
    outbox.append(
        tx,
        kind,
        operation_id=operation_id,
        cause=Cause.OPERATION if operation_id else Cause.HOST,
        data={"owner": owner, "reason": reason, "reasons": left, "enabled": not left},
    )


@verb(
    "host_power_action",
    lane=Lane.HOST,
    recovery=Recovery.INTERRUPTED,
    probe="none: the agent ends with the host",
)
def host_power_action(manager: Manager, job: Job) -> Outcome:
    """Restart or switch off the host, if the configuration lets the agent."""
    if not CONF.host.allow_power_actions:
        raise errors.PermissionDenied("[host] allow_power_actions is off on this host")
    manager.driver.host_power_action(job.arguments.action.value)
    return Outcome()


@verb("confirm_instances", lane=Lane.HOST, lifecycle=("started",), probe="the guests run")
def confirm_instances(manager: Manager, job: Job) -> Outcome:
    """Start those that ran before the host booted and are still this host's."""
    awaiting = set(json.loads(manager.store.read(lambda tx: host_store.get(tx, AWAITING)) or "[]"))
    confirmed = [uuid for uuid in job.arguments.instance_uuids if uuid in awaiting]
    start(manager, confirmed, job.operation.operation_id)
    left = sorted(awaiting - set(confirmed))
    manager.store.write(lambda tx: host_store.put(tx, AWAITING, json.dumps(left)))
    return Outcome({"started": confirmed, "still_waiting": left})


def start(manager: Manager, uuids: list[str], parent: str | None = None) -> None:
    """Switch instances on, each by an operation of the agent's own."""
    proposals = []
    for uuid in uuids:
        operation_id = host_store.new_epoch()
        values = {"instance_uuid": uuid, "operation_id": operation_id, "parent_operation_id": parent}
        proposals.append(
            propose(manager.table["power_on"], "power_on", operation_id, values, origin=Origin.AGENT)
        )
    manager.engine.accept(proposals)

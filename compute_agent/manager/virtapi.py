# SPDX-License-Identifier: Apache-2.0
"""The agent's side of what a driver may ask: records, flags, group rules, outside events."""

from collections.abc import Sequence

import msgspec

from compute_agent.manager.external_events import ExternalEvents
from compute_agent.model.event import EventType
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.security_group import GroupMember, SecurityGroupRule
from compute_agent.model.states import InstanceState
from compute_agent.operations import telling
from compute_agent.store import groups, instances
from compute_agent.store.database import Store, Transaction


class AgentVirtAPI:
    """Answers a driver's questions from the state file."""

    def __init__(self, store: Store, external_events: ExternalEvents) -> None:
        self._store = store
        self._external_events = external_events

    def instance_record(self, uuid: str) -> InstanceRecord | None:
        """Return an instance's record, or None."""
        return self._store.read(lambda tx: instances.find(tx, uuid))

    def instance_records(self) -> list[InstanceRecord]:
        """Return the records of all instances that are here."""
        return self._store.read(instances.every)

    def is_bootable(self, uuid: str) -> bool:
        """Return whether an instance may be switched on."""
        record = self.instance_record(uuid)
        return record is None or record.bootable

    def set_bootable(self, uuid: str, is_bootable: bool) -> None:
        """Keep in an instance's record whether it may be switched on."""

        def write(tx: Transaction) -> None:
            record = instances.get(tx, uuid)
            record = instances.put(tx, msgspec.structs.replace(record, bootable=is_bootable))
            telling.tell_record(tx, EventType.INSTANCE_UPDATED, record)

        self._store.write(write)

    def is_soft_deleted(self, uuid: str) -> bool:
        """Return whether an instance is soft-deleted."""
        record = self.instance_record(uuid)
        return record is not None and record.state is InstanceState.SOFT_DELETED

    def security_group_rules(self, group_id: str) -> Sequence[SecurityGroupRule]:
        """Return a group's rules."""
        return self._store.read(lambda tx: groups.rules(tx, group_id))

    def security_group_members(self, group_id: str) -> Sequence[GroupMember]:
        """Return a group's members on all hosts."""
        return self._store.read(lambda tx: groups.members(tx, group_id))

    def wait_for_external_event(self, uuid: str, name: str, tag: str | None, timeout: float) -> str | None:
        """Wait for an event from outside; return its status, None if it did not come in ``timeout`` s."""
        return self._external_events.wait(uuid, name, tag, timeout)

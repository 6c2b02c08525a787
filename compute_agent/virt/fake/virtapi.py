# SPDX-License-Identifier: Apache-2.0
"""An agent's side in memory, for a driver that is used without an agent: in tests, or by a script."""

from collections.abc import Sequence
from typing import Any

import msgspec

from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.security_group import GroupMember, SecurityGroupRule
from compute_agent.model.states import InstanceState


class MemoryVirtAPI:
    """Implements :class:`compute_agent.virt.virtapi.VirtAPI`; fill ``records``, ``rules``, ``members``."""

    def __init__(self) -> None:
        self.records: dict[str, InstanceRecord] = {}
        self.rules: dict[str, Sequence[SecurityGroupRule]] = {}
        self.members: dict[str, Sequence[GroupMember]] = {}
        self.external_events: dict[tuple[str, str, str | None], str] = {}

    def put(
        self, instance: Instance, state: InstanceState = InstanceState.ACTIVE, **fields: Any
    ) -> InstanceRecord:
        """Take an instance on record."""
        record = InstanceRecord(uuid=instance.uuid, instance=instance, state=state, **fields)
        self.records[instance.uuid] = record
        return record

    def instance_record(self, uuid: str) -> InstanceRecord | None:
        """Return an instance's record; None if there is none."""
        return self.records.get(uuid)

    def instance_records(self) -> list[InstanceRecord]:
        """Return the records of all instances."""
        return list(self.records.values())

    def is_bootable(self, uuid: str) -> bool:
        """Return whether an instance may be switched on."""
        record = self.records.get(uuid)
        return record is None or record.bootable

    def set_bootable(self, uuid: str, is_bootable: bool) -> None:
        """Keep whether an instance may be switched on."""
        if uuid in self.records:
            self.records[uuid] = msgspec.structs.replace(self.records[uuid], bootable=is_bootable)

    def is_soft_deleted(self, uuid: str) -> bool:
        """Return whether an instance is soft-deleted."""
        record = self.records.get(uuid)
        return record is not None and record.state is InstanceState.SOFT_DELETED

    def security_group_rules(self, group_id: str) -> Sequence[SecurityGroupRule]:
        """Return a group's rules."""
        return self.rules.get(group_id, [])

    def security_group_members(self, group_id: str) -> Sequence[GroupMember]:
        """Return a group's members."""
        return self.members.get(group_id, [])

    def wait_for_external_event(self, uuid: str, name: str, tag: str | None, timeout: float) -> str | None:
        """Return the status of an event that is in ``external_events``; None without waiting otherwise."""
        return self.external_events.get((uuid, name, tag))

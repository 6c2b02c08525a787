# SPDX-License-Identifier: Apache-2.0
"""All that a driver may ask of the agent: its constructor's argument.

A driver stores nothing of its own beside the hypervisor and the disks, so what it has to know
of the record it asks here. The agent's side is in the manager; drivers know only this protocol.
"""

from collections.abc import Sequence
from typing import Protocol

from compute_agent.model.instance import InstanceRecord
from compute_agent.model.security_group import GroupMember, SecurityGroupRule


class VirtAPI(Protocol):
    """Records and flags of instances, rules of security groups, events from outside."""

    def instance_record(self, uuid: str) -> InstanceRecord | None:
        """Return an instance's record; None if there is none."""

    def instance_records(self) -> list[InstanceRecord]:
        """Return the records of all instances that are on this host."""

    def is_bootable(self, uuid: str) -> bool:
        """Return whether an instance may be switched on; True for one that is not on record."""

    def set_bootable(self, uuid: str, is_bootable: bool) -> None:
        """Keep in an instance's record whether it may be switched on."""

    def is_soft_deleted(self, uuid: str) -> bool:
        """Return whether an instance is soft-deleted."""

    def security_group_rules(self, group_id: str) -> Sequence[SecurityGroupRule]:
        """Return a group's rules; ``provider`` is the group whose rules win over all others."""

    def security_group_members(self, group_id: str) -> Sequence[GroupMember]:
        """Return a group's members on all hosts."""

    def wait_for_external_event(self, uuid: str, name: str, tag: str | None, timeout: float) -> str | None:
        """Wait for an event from outside, such as ``network-vif-plugged``.

        :param timeout: in seconds
        :return: the event's status; None if it did not come in time
        :raises Cancelled, Timeout: if the running operation is cancelled or over its time
        """

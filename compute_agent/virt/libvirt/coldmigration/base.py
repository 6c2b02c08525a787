# SPDX-License-Identifier: Apache-2.0
"""What both ends of a cold migration need."""

import os

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.coldmigration import aside, details
from compute_agent.virt.libvirt.coldmigration.details import Destination, Details
from compute_agent.virt.libvirt.migration import LibvirtMigration, storage


class LibvirtColdBase(LibvirtMigration):
    """The common part of the cold migration concern."""

    def see_migration(self, instance: Instance, at_source: bool) -> Fact:
        """Return what there is of a guest that is migrated. One that is set aside has no domain."""
        fact = super().see_migration(instance, at_source)
        if not at_source or fact is not Fact.OFF:
            return fact
        paths = self._paths(instance)
        try:
            if self._on_disk(aside.read, paths) is None or self._power_state(instance.uuid) is not None:
                return fact
            return Fact.PART if self._on_disk(aside.sent, paths) is None else Fact.MOVED
        except (errors.HypervisorUnavailable, errors.Timeout, errors.PermissionDenied):
            return Fact.UNKNOWN

    def cleanup_live_migration_destination_check(
        self, context: Context, dest_check_data: LiveMigrateData
    ) -> None:
        """Remove the marks."""
        if not dest_check_data.cold:
            super().cleanup_live_migration_destination_check(context, dest_check_data)
            return
        found = self._said(details.read(dest_check_data))
        self._on_disk(storage.remove_mark, self._instances_path, found.mark)
        if found.keys_mark:
            self._on_disk(storage.remove_mark, _key_directory(), found.keys_mark)

    def _said(self, found: Details) -> Destination:
        if found.destination is None:
            raise errors.InvalidArguments("the destination of the migration has not been checked")
        return found.destination

    def _leave_keys_mark(self) -> str | None:
        """Leave a mark where keys are kept, if this host has such a place."""
        directory = _key_directory()
        return storage.leave_mark(directory) if os.path.isdir(directory) else None

    def _shares_keys(self, mark: str | None) -> bool:
        """Return whether both hosts keep keys in one place."""
        return mark is not None and self._on_disk(storage.sees_mark, _key_directory(), mark)


def _key_directory() -> str:
    return os.path.abspath(str(CONF.ephemeral_storage_encryption.key_directory))

# SPDX-License-Identifier: Apache-2.0
"""What both ends of a live migration need: what the hypervisor shows, and marks on shared storage."""

from typing import Any

from compute_agent.model import errors
from compute_agent.model.handshake import Fact
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Context
from compute_agent.virt.libvirt import files
from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle
from compute_agent.virt.libvirt.migration import look, storage
from compute_agent.virt.libvirt.paths import InstancePaths


class LibvirtMigrationBase(LibvirtLifecycle):
    """The common part of the live migration concern."""

    def see_migration(self, instance: Instance, at_source: bool) -> Fact:
        """Return what the hypervisor shows of a guest that is migrated."""
        look_at = look.at_source if at_source else look.at_destination
        try:
            return self._host.ask(look_at, instance.uuid)
        except (errors.HypervisorUnavailable, errors.Timeout):
            return Fact.UNKNOWN

    def check_instance_shared_storage_local(self, context: Context, instance: Instance) -> Any:
        """Leave a mark in the instance's directory."""
        directory = self._paths(instance).directory
        if not self._on_disk(files.is_there, directory):
            return None
        return {"uuid": instance.uuid, "mark": self._on_disk(storage.leave_mark, directory)}

    def check_instance_shared_storage_remote(self, context: Context, data: Any) -> bool:
        """Return whether the mark that another host left can be seen here."""
        return bool(data) and self._on_disk(storage.sees_mark, *self._marked(data))

    def check_instance_shared_storage_cleanup(self, context: Context, data: Any) -> None:
        """Remove the mark."""
        if data:
            self._on_disk(storage.remove_mark, *self._marked(data))

    def _marked(self, data: Any) -> tuple[str, str]:
        """Return directory and name of a mark that another host tells of."""
        paths = InstancePaths(self._instances_path, str(data.get("uuid")))
        return paths.directory, str(data.get("mark"))

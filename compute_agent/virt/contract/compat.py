# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Members that only older contracts have, as thin translations into the newer ones.

Kept together here so that the other concerns stay in their newest form. Older members name
guests by their names, or by numbers that made such a name; newer ones take the instance.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from compute_agent.model import clock, errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.instance import Instance
from compute_agent.model.states import InstanceState
from compute_agent.virt import filtering
from compute_agent.virt.block_device import get_block_device_info
from compute_agent.virt.contract.base import Context, unsupported
from compute_agent.virt.contract.diagnostics import Diagnostics
from compute_agent.virt.contract.host import Host
from compute_agent.virt.contract.migration import Migration
from compute_agent.virt.contract.network import Network
from compute_agent.virt.contract.rescue import Rescue
from compute_agent.virt.contract.snapshots import Snapshots
from compute_agent.virt.info import DiskDiagnostics, InstanceInfo, LiveMigrateData, NicDiagnostics


class Compat(Rescue, Snapshots, Network, Migration, Host, Diagnostics):
    """What Diablo, Icehouse and Mitaka had and Queens has not."""

    _host_stats: dict[str, Any] | None = None

    # --- host ------------------------------------------------------------------------------------------

    def get_host_stats(self, refresh: bool = False) -> dict[str, Any]:
        """Return what :meth:`get_available_resource` said last; ask again with ``refresh``.

        Contract: Diablo, Icehouse.
        """
        if refresh or self._host_stats is None:
            self._host_stats = self.get_available_resource(self.get_available_nodes()[0])
        return self._host_stats

    def update_host_status(self) -> dict[str, Any]:
        """Ask for the host's resources again, for :meth:`get_host_stats`.

        Contract: Diablo.
        """
        return self.get_host_stats(refresh=True)

    def update_available_resource(self, ctxt: Context, host: str) -> dict[str, Any]:
        """Ask for the host's resources again. The agent tells them in ``host.report``.

        Contract: Diablo.
        """
        return self.get_host_stats(refresh=True)

    def list_instances_detail(self) -> list[InstanceInfo]:
        """Return name and power state of every guest.

        Contract: Diablo.
        """
        return list(self.get_all_info().values())

    @unsupported
    def compare_cpu(self, cpu_info: Any) -> None:
        """Check whether a guest with that processor can run here.

        :param cpu_info: JSON, as ``cpu_info`` of :meth:`get_available_resource`
        :raises MigrationRefused: if it can't

        Contract: Diablo.
        """

    # --- guests by name ----------------------------------------------------------------------------------

    def instance_named(self, name: str) -> Instance:
        """Return the instance whose guest has that name.

        :raises InstanceNotFound: if there is none, or it has no description

        Our own.
        """
        for info in self.get_all_info().values():
            if info.name == name:
                description = self.get_description(info.uuid)
                if description is not None and description.instance is not None:
                    return description.instance
        raise errors.InstanceNotFound(f"no instance is named {name}")

    def list_disks(self, instance_name: str) -> list[str]:
        """Return the names of a guest's disks, such as ``vda``: what :meth:`block_stats` takes.

        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo.
        """
        return [disk.id for disk in self._disks(instance_name)]

    def list_interfaces(self, instance_name: str) -> list[str]:
        """Return the ids of a guest's interfaces: what :meth:`interface_stats` takes.

        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo.
        """
        return [nic.id for nic in self._nics(instance_name)]

    def interface_stats(self, instance_name: str, iface_id: str) -> list[int]:
        """Return ``[rx_bytes, rx_packets, rx_errs, rx_drop, tx_bytes, tx_packets, tx_errs, tx_drop]``.

        :param iface_id: an interface's id or MAC address
        :raises InstanceNotFound: if there is no such guest
        :raises InvalidArguments: if it has no such interface

        Contract: Diablo, Icehouse.
        """
        for nic in self._nics(instance_name):
            if iface_id in (nic.id, nic.mac_address):
                received = [nic.rx_octets, nic.rx_packets, nic.rx_errors, nic.rx_drop]
                return [*received, nic.tx_octets, nic.tx_packets, nic.tx_errors, nic.tx_drop]
        raise errors.InvalidArguments(f"{instance_name} has no interface {iface_id}")

    def _disks(self, name: str) -> list[DiskDiagnostics]:
        return self.get_instance_diagnostics(self.instance_named(name)).disk_details

    def _nics(self, name: str) -> list[NicDiagnostics]:
        return self.get_instance_diagnostics(self.instance_named(name)).nic_details

    # --- rescue, snapshots, migration --------------------------------------------------------------------

    def poll_rescued_instances(self, timeout: float) -> None:
        """Unrescue those that have been rescued for longer than ``timeout`` seconds.

        Contract: Diablo.
        """
        before = clock.timestamp(clock.after(-timeout))
        for record in self.virtapi.instance_records():
            if record.state is InstanceState.RESCUED and record.updated_at <= before:
                self.unrescue(record.instance, record.instance.network_info)

    def snapshot_instance(self, context: Context, instance_id: int | str, image_id: Any) -> None:
        """Take a snapshot of the instance with a number (``instance-<number in hex>``) or a name.

        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo.
        """
        name = f"instance-{instance_id:08x}" if isinstance(instance_id, int) else instance_id
        self.snapshot(context, self.instance_named(name), image_id, _ignore)

    def resize(self, instance: Instance, flavor: Flavor) -> None:
        """Give an instance another flavor on this host. Undone by :meth:`revert_migration`.

        :raises MigrationRefused: if a disk would have to shrink

        Contract: Diablo.
        """
        vifs = instance.network_info
        devices = _devices(instance)
        disks = self.migrate_disk_and_power_off(
            None, instance, self.get_host_ip_addr(), flavor, vifs, devices
        )
        resized = msgspec.structs.replace(instance, flavor=flavor)
        self.finish_migration(None, None, resized, disks, vifs, instance.image, True, _devices(resized))

    def revert_migration(self, instance: Instance) -> None:
        """Bring an instance back as it was: the older name of :meth:`finish_revert_migration`.

        Contract: Diablo.
        """
        self.finish_revert_migration(None, instance, instance.network_info, _devices(instance))

    def check_can_live_migrate_destination_cleanup(
        self, context: Context, dest_check_data: LiveMigrateData
    ) -> None:
        """Undo what the check left: the older name of :meth:`cleanup_live_migration_destination_check`.

        Contract: Icehouse, Mitaka.
        """
        self.cleanup_live_migration_destination_check(context, dest_check_data)

    # --- network -----------------------------------------------------------------------------------------

    def refresh_provider_fw_rules(self) -> None:
        """Apply the provider's rules, which win over every group's, to all instances anew.

        Contract: Diablo, Icehouse.
        """
        self._refresh_filters(lambda instance: True)

    def refresh_security_group_members(self, security_group_id: str) -> None:
        """Apply the rules that refer to a group's members to their instances anew.

        Contract: Diablo, Icehouse.
        """
        self._refresh_filters(lambda instance: filtering.refers_to(instance, security_group_id, self.virtapi))

    def _refresh_filters(self, concerned: Callable[[Instance], bool]) -> None:
        """Apply the rules of the instances here that are ``concerned`` anew."""
        here = self.get_all_info()
        for record in self.virtapi.instance_records():
            if record.uuid in here and concerned(record.instance):
                self.refresh_instance_security_rules(record.instance)

    def dhcp_options_for_instance(self, instance: Instance) -> list[dict[str, Any]] | None:
        """Return DHCP options that an instance needs to boot from the network; None means none.

        Contract: Icehouse, Mitaka.
        """
        return None

    # --- XenAPI, and consoles of 2011 --------------------------------------------------------------------

    @unsupported
    def agent_update(self, instance: Instance, url: str, md5hash: str) -> None:
        """Have the guest's agent update itself from ``url`` (XenAPI only).

        Contract: Diablo.
        """

    @unsupported
    def get_ajax_console(self, instance: Instance) -> dict[str, Any]:
        """Return token, host and port of a console in a browser, made with ajaxterm.

        Contract: Diablo.
        """


def _devices(instance: Instance) -> dict[str, Any]:
    return get_block_device_info(instance, instance.block_device_mapping)


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    """Nobody follows the state of a snapshot here."""

# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Host: what it has, whether it is fit, and all its guests at once."""

from collections.abc import Collection
from typing import Any

from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, Context, unsupported
from compute_agent.virt.info import Description, InstanceInfo, Orphan, Problem


class Host(Base):
    """The hypervisor's host."""

    # --- the driver's own life -----------------------------------------------------------------------

    @unsupported
    def init_host(self, host: str) -> None:
        """Get going: reach the hypervisor and hear its events. Touches no guest.

        A hypervisor that is away is no error: the driver goes on trying and emits a
        :class:`~compute_agent.virt.event.HypervisorEvent`.

        :param host: this host's name

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    def cleanup_host(self, host: str) -> None:
        """Let go of the hypervisor. No event that it has sent is lost, and no guest is touched.

        Contract: Icehouse, Mitaka, Queens.
        """

    # --- all guests ------------------------------------------------------------------------------------

    @unsupported
    def get_all_info(self) -> dict[str, InstanceInfo]:
        """Return what the hypervisor shows of every guest, ours or not, by uuid; in one bulk call.

        :raises HypervisorUnavailable: if it does not answer

        Our own, for Ganeti's GetAllInstancesInfo.
        """

    def list_instances(self) -> list[str]:
        """Return the names of all guests, running or not.

        Contract: Diablo, Icehouse, Mitaka, Queens; Ganeti's ListInstances.
        """
        return [info.name for info in self.get_all_info().values()]

    def list_instance_uuids(self) -> list[str]:
        """Return the uuids of all guests, running or not.

        Contract: Icehouse, Mitaka, Queens.
        """
        return list(self.get_all_info())

    def get_num_instances(self) -> int:
        """Return how many guests there are, running or not.

        Contract: Icehouse, Mitaka, Queens.
        """
        return len(self.list_instances())

    @unsupported
    def get_description(self, uuid: str) -> Description | None:
        """Return what spawn left at the hypervisor about a guest; None for one that is not ours.

        Our own.
        """

    @unsupported
    def list_orphans(self, known: Collection[str] = ()) -> list[Orphan]:
        """Return what is at the hypervisor or on its disks and belongs to none of ``known``.

        :param known: uuids of the instances on record

        Our own.
        """

    @unsupported
    def destroy_orphan(self, orphan_id: str) -> None:
        """Remove an orphan that :meth:`list_orphans` named. One that is gone is success.

        Our own.
        """

    # --- resources -------------------------------------------------------------------------------------

    @unsupported
    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """Return what the host has and how much of it is in use.

        ``vcpus``, ``vcpus_used``, ``memory_mb``, ``memory_mb_used``, ``local_gb``, ``local_gb_used``,
        ``disk_available_least`` (GiB), ``running_vms``, ``hypervisor_type``, ``hypervisor_version``,
        ``hypervisor_hostname``, ``cpu_info``, ``supported_instances``, ``numa_topology``; and in MiB
        ``memory_total``, ``memory_free``, ``memory_dom0``.

        :param nodename: one of :meth:`get_available_nodes`

        Contract: Icehouse, Mitaka, Queens; Ganeti's GetNodeInfo.
        """

    @unsupported
    def get_inventory(self, nodename: str) -> dict[str, dict[str, Any]]:
        """Return resource classes (``VCPU``, ``MEMORY_MB``, ``DISK_GB``), each with ``total``, ``reserved``,
        ``min_unit``, ``max_unit``, ``step_size`` and ``allocation_ratio``.

        Contract: Queens.
        """

    @unsupported
    def get_traits(self, nodename: str) -> list[str]:
        """Return what the host can do, by the names of os-traits.

        Contract: Queens.
        """

    def update_provider_tree(self, provider_tree: Any, nodename: str) -> None:
        """Write inventory and traits of ``nodename`` into a tree of resource providers.

        :param provider_tree: has ``update_inventory(name, inventory)`` and ``update_traits(name, traits)``

        Contract: Queens.
        """
        provider_tree.update_inventory(nodename, self.get_inventory(nodename))
        provider_tree.update_traits(nodename, self.get_traits(nodename))

    @unsupported
    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """Return the names of the nodes that this driver serves: one, for most.

        :param refresh: ask the hypervisor again

        Contract: Icehouse, Mitaka, Queens.
        """

    def node_is_available(self, nodename: str) -> bool:
        """Return whether the driver serves ``nodename``, asking again where it does not know it.

        Contract: Icehouse, Mitaka, Queens.
        """
        return nodename in self.get_available_nodes() or nodename in self.get_available_nodes(refresh=True)

    def estimate_instance_overhead(self, instance_info: Any) -> dict[str, int]:
        """Return what an instance costs the host beside its flavor: ``memory_mb``, ``vcpus``, ``disk_gb``.

        :param instance_info: an instance or a flavor

        Contract: Icehouse, Mitaka, Queens.
        """
        return {"memory_mb": 0, "vcpus": 0, "disk_gb": 0}

    @unsupported
    def get_host_cpu_stats(self) -> dict[str, int]:
        """Return ``kernel``, ``idle``, ``user`` and ``iowait`` in ns since boot, and ``frequency`` in MHz.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_host_uptime(self) -> str:
        """Return how long the host has been up, as ``uptime`` says it.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_host_ip_addr(self) -> str:
        """Return the address at which other hosts reach this one's hypervisor.

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    # --- is it fit, and may it take guests -------------------------------------------------------------

    def verify(self) -> list[Problem] | None:
        """Return what is wrong with the host, each with its remedy; None if it is fit.

        Our own, for Ganeti's Verify.
        """
        return None

    def check_parameters(self, instance: Instance) -> list[Problem] | None:
        """Return what is wrong with an instance's description wherever it is to run; None if nothing.

        Pure: the host is not asked, so a caller may use it before sending.

        Our own, for Ganeti's CheckParameterSyntax.
        """
        return None

    def validate_parameters(self, instance: Instance) -> list[Problem] | None:
        """Return why an instance can't run on this host: machine, processor, files, devices; None if it can.

        Our own, for Ganeti's ValidateParameters.
        """
        return None

    def get_ancillary_files(self) -> tuple[list[str], list[str]]:
        """Return the files that a host must carry and those that it may carry.

        Our own, for Ganeti's GetAncillaryFiles.
        """
        return [], []

    def set_host_enabled(self, enabled: bool) -> str:
        """Take note that the host takes new guests, or not; return ``enabled`` or ``disabled``.

        The agent keeps it on record and refuses spawn with `HostDisabled`; a driver has
        something to do only where its hypervisor has such a switch of its own.

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """
        return "enabled" if enabled else "disabled"

    @unsupported
    def host_maintenance_mode(self, host: str, mode: bool) -> str:
        """Move every guest away and take no new ones (``mode`` True), or take guests again.

        :return: ``on_maintenance`` or ``off_maintenance``

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def host_power_action(self, action: str) -> str:
        """Restart the host or switch it off, when the configuration lets the agent.

        :param action: ``reboot``, ``shutdown``, ``startup`` or ``powercycle``
        :return: the action
        :raises PermissionDenied: unless ``[host] allow_power_actions`` is set

        Contract: Diablo, Icehouse, Mitaka, Queens; Ganeti's PowercycleNode.
        """

    # --- pools of hosts (XenAPI only) --------------------------------------------------------------------

    @unsupported
    def add_to_aggregate(self, context: Context, aggregate: Any, host: str, **kwargs: Any) -> None:
        """Join a host to a XenAPI resource pool.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def remove_from_aggregate(self, context: Context, aggregate: Any, host: str, **kwargs: Any) -> None:
        """Take a host out of a XenAPI resource pool.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def undo_aggregate_operation(
        self, context: Context, op: Any, aggregate: Any, host: str, set_error: bool = True
    ) -> None:
        """Undo a join or a leave of a XenAPI resource pool.

        Contract: Icehouse, Mitaka, Queens.
        """

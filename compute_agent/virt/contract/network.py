# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Network: interfaces on the host's side and on the guest's, and the filters between them.

A provider's rule wins over a group's. Members of a group that a rule refers to are followed as they come and
go, on any host.
"""

from collections.abc import Sequence
from typing import Any

from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif
from compute_agent.virt.contract.base import Base, Context, NetworkInfo, unsupported


class Network(Base):
    """Plugging and filtering; every pair is an exact inverse, and repeating one is harmless."""

    @unsupported
    def plug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Connect the host's ends of interfaces to their networks.

        :raises NetworkUnavailable: if a bridge or network is not on this host

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def unplug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Disconnect the host's ends of interfaces. What is not plugged is success.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def attach_interface(
        self, context: Context, instance: Instance, image_meta: Image | None, vif: Vif
    ) -> None:
        """Give a guest, running or not, one more interface. The same one again is success.

        :raises InstanceNotFound: if there is no such guest
        :raises NetworkUnavailable: if its network is not on this host
        :raises DeviceBusy: if another interface has its MAC address

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def detach_interface(self, context: Context, instance: Instance, vif: Vif) -> None:
        """Take an interface from a guest once the guest has released it. One it has not is success.

        :raises InstanceNotFound: if there is no such guest
        :raises DeviceBusy: if the guest does not release it

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_all_bw_counters(self, instances: Sequence[Instance]) -> list[dict[str, Any]]:
        """Return what each interface of ``instances`` moved, from one bulk call.

        Each entry has ``name``, ``uuid`` (the instance's), ``vif_id``, ``mac_address``, and in bytes
        ``bw_in`` and ``bw_out``, from the guest's point of view.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Define an instance's filters before its guest arrives; they are there when this returns.

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def unfilter_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Remove an instance's filters. What is not there is success.

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def filter_defer_apply_on(self) -> None:
        """Collect changes of filters from now on instead of applying each.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def filter_defer_apply_off(self) -> None:
        """Apply the collected changes of filters, once, and each at once from now on.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def refresh_security_group_rules(self, security_group_id: str) -> None:
        """Apply a group's rules anew to every instance of the group that is here.

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def refresh_instance_security_rules(self, instance: Instance) -> None:
        """Apply an instance's groups anew.

        Contract: Icehouse, Mitaka, Queens.
        """

    def network_binding_host_id(self, context: Context, instance: Instance) -> str | None:
        """Return the host that an instance's ports are bound to; None means this one.

        Contract: Mitaka, Queens.
        """
        return None

    def macs_for_instance(self, instance: Instance) -> set[str] | None:
        """Return the MAC addresses that an instance has to use; None means any.

        Contract: Icehouse, Mitaka, Queens.
        """
        return None

    def deallocate_networks_on_reschedule(self, instance: Instance) -> bool:
        """Return whether an instance's networks are to be released when it is tried elsewhere.

        Contract: Mitaka, Queens.
        """
        return False

    def prepare_networks_before_block_device_mapping(
        self, instance: Instance, network_info: NetworkInfo
    ) -> None:
        """Get networks ready before block devices are mapped. Nothing to do for most drivers.

        Contract: Queens.
        """

    def clean_networks_preparation(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Undo :meth:`prepare_networks_before_block_device_mapping`.

        Contract: Queens.
        """

    def reset_network(self, instance: Instance) -> None:
        """Have the guest's agent set its networks up again (XenAPI only, elsewhere nothing).

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    def inject_network_info(self, instance: Instance, nw_info: NetworkInfo) -> None:
        """Hand network settings to the guest's agent (XenAPI only, elsewhere nothing).

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

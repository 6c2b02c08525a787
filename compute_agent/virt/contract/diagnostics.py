# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Diagnostics: what a guest is doing and what it has used."""

from collections.abc import Sequence
from typing import Any

from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, Context, unsupported
from compute_agent.virt.info import Diagnostics as DiagnosticsInfo
from compute_agent.virt.info import InstanceInfo


class Diagnostics(Base):
    """Power states, counters, last words."""

    @unsupported
    def get_info(self, instance: Instance) -> InstanceInfo:
        """Return what the hypervisor shows of a guest: power state, memory (KiB), processor time (ns).

        :raises InstanceNotFound: if there is no such guest
        :raises HypervisorUnavailable: if it can't be asked

        Contract: Diablo, Icehouse, Mitaka, Queens; Ganeti's GetInstanceInfo.
        """

    @unsupported
    def get_diagnostics(self, instance: Instance) -> dict[str, Any]:
        """Return a guest's counters as a flat dictionary.

        ``cpu0_time`` (ns), ``memory`` (KiB), ``vda_read`` and ``<vif>_rx`` (bytes), …

        :raises InstanceNotFound: if there is no such guest
        :raises InvalidState: if it is off

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_instance_diagnostics(self, instance: Instance) -> DiagnosticsInfo:
        """Return a guest's counters in their versioned form.

        :raises InstanceNotFound: if there is no such guest

        Contract: Mitaka, Queens.
        """

    @unsupported
    def block_stats(self, instance: Instance, disk_id: str) -> list[int]:
        """Return ``[rd_req, rd_bytes, wr_req, wr_bytes, errs]`` of a disk.

        :param disk_id: its device name in the guest, such as ``vda``
        :raises InstanceNotFound: if there is no such guest
        :raises InvalidArguments: if it has no such disk

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_all_volume_usage(
        self, context: Context, compute_host_bdms: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return what each volume did.

        Each entry has ``volume``, ``instance``, ``rd_req``, ``rd_bytes``, ``wr_req``, ``wr_bytes``.

        :param compute_host_bdms: dictionaries of ``instance`` and ``instance_bdms``

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def get_per_instance_usage(self) -> dict[str, dict[str, Any]]:
        """Return ``{uuid: {"uuid": uuid, "memory_mb": MiB}}`` of all guests, from one bulk call.

        Contract: Icehouse, Mitaka, Queens.
        """

    def get_last_words(self, instance: Instance) -> dict[str, str]:
        """Return the tails of a guest's logs (4 KiB each): the hypervisor's and the console's.

        What can't be read is missing.

        Our own.
        """
        return {}

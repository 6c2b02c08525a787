# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="empty-body"
"""Power: guests are switched on and off, held and let go on."""

from collections.abc import Callable, Sequence
from typing import Any

from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import Base, BlockDeviceInfo, Context, NetworkInfo, unsupported


class Power(Base):
    """On and off, reboot, pause, suspend. Each pair is an exact inverse; repeating one is harmless."""

    @unsupported
    def reboot(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        reboot_type: str,
        block_device_info: BlockDeviceInfo = None,
        bad_volumes_callback: Callable[..., Any] | None = None,
    ) -> None:
        """Restart a guest; it runs when this returns. Also from paused and stopped.

        :param reboot_type: ``SOFT`` asks the guest, waits ``wait_soft_reboot_seconds`` and then does
            ``HARD``, which pulls the plug and makes the guest anew from its description
        :param bad_volumes_callback: called with the volumes that can't be connected; may be None
        :raises InstanceNotFound: if there is no such guest

        Contract: Diablo, Icehouse, Mitaka, Queens; Ganeti's RebootInstance.
        """

    @unsupported
    def power_on(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Start a guest that is off (held, with ``start_paused``). Already on is success.

        :raises InstanceNotFound: if there is no such guest
        :raises InvalidState: if the instance is marked not bootable

        Contract: Icehouse, Mitaka, Queens; Ganeti's StartInstance.
        """

    @unsupported
    def power_off(self, instance: Instance, timeout: float = 0, retry_interval: float = 0) -> None:
        """Ask a guest every ``retry_interval`` seconds to shut down; after ``timeout`` pull the plug.

        :param timeout: in seconds; 0 pulls the plug at once
        :param retry_interval: in seconds; 0 asks once
        :raises InstanceNotFound: if there is no such guest. Already off is success.

        Contract: Icehouse, Mitaka, Queens; Ganeti's StopInstance.
        """

    @unsupported
    def pause(self, instance: Instance) -> None:
        """Hold a guest's processors; its memory stays in place.

        :raises InstanceNotFound: if there is no such guest
        :raises InvalidState: if it does not run

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def unpause(self, instance: Instance) -> None:
        """Let a paused guest go on.

        :raises InstanceNotFound: if there is no such guest
        :raises InvalidState: if it is neither paused nor running

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def suspend(self, context: Context, instance: Instance) -> None:
        """Write a guest's memory to disk and free it. It survives a restart of the host.

        :raises InstanceNotFound: if there is no such guest
        :raises InvalidState: if it is off
        :raises DiskFull: if the disk has no room for the memory

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def resume(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Let a suspended guest go on from where it was.

        :raises InstanceNotFound: if there is no such guest
        :raises InvalidState: if it is neither suspended nor running

        Contract: Diablo, Icehouse, Mitaka, Queens.
        """

    @unsupported
    def resume_state_on_host_boot(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Start a guest that ran before the host went down. One that runs or is held is left alone.

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def poll_rebooting_instances(self, timeout: float, instances: Sequence[Instance]) -> None:
        """Reboot those hard that have been rebooting for longer than ``timeout`` seconds.

        :param instances: those that are being rebooted

        Contract: Icehouse, Mitaka, Queens.
        """

    @unsupported
    def set_bootable(self, instance: Instance, is_bootable: bool) -> None:
        """Say whether an instance may be switched on: one that is not bootable refuses power_on.

        Contract: Icehouse, Mitaka, Queens.
        """

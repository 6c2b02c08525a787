# SPDX-License-Identifier: Apache-2.0
"""Power: fake guests are switched on and off, held and let go on."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import clock, errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.steps import Step
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.fake import network
from compute_agent.virt.fake.base import FakeBase

SOFT = "SOFT"


class FakePower(FakeBase):
    """The power concern."""

    def reboot_steps(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        reboot_type: str,
        block_device_info: BlockDeviceInfo = None,
        bad_volumes_callback: Callable[..., Any] | None = None,
    ) -> list[Step]:
        """Return the parts of :meth:`reboot`."""
        soft, token, uuid = reboot_type.upper() == SOFT, self._token(), instance.uuid

        def booted() -> bool:
            """Whether an attempt that was interrupted got as far as booting it again."""
            domain = self.hypervisor.find(uuid)
            return domain is not None and domain.started_by == token

        return [
            self._step("reboot", "stop", instance, lambda: self._end(instance, soft), done=booted),
            self._step(
                "reboot",
                "start",
                instance,
                lambda: self.hypervisor.start(uuid, started_by=token),
                done=lambda: booted() and self.hypervisor.get(uuid).is_up,
            ),
        ]

    def reboot(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        reboot_type: str,
        block_device_info: BlockDeviceInfo = None,
        bad_volumes_callback: Callable[..., Any] | None = None,
    ) -> None:
        """End a guest and boot it again."""
        steps.run(self.reboot_steps(context, instance, network_info, reboot_type, block_device_info))

    def _end(self, instance: Instance, soft: bool) -> None:
        if soft:
            self._shut_down(instance.uuid, CONF.fake.wait_soft_reboot_seconds, 0)
        self.hypervisor.stop(instance.uuid)

    def power_on(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Boot a guest."""
        if not self.virtapi.is_bootable(instance.uuid):
            raise errors.InvalidState("the instance is marked as not bootable")
        network.check(network_info or ())
        self.hypervisor.start(instance.uuid, instance.start_paused)

    def power_off(self, instance: Instance, timeout: float = 0, retry_interval: float = 0) -> None:
        """Ask a guest to shut down, then pull the plug."""
        if timeout > 0:
            self._shut_down(instance.uuid, timeout, retry_interval)
        self.hypervisor.stop(instance.uuid)

    def _shut_down(self, uuid: str, timeout: float, retry_interval: float) -> None:
        """Ask a guest to shut down; return when it is off or ``timeout`` seconds have passed."""
        asked = time.monotonic()
        while self.hypervisor.get(uuid).power is PowerState.RUNNING:
            passed = time.monotonic() - asked
            needs = CONF.fake.guest_shutdown_time
            if uuid not in self.hypervisor.deaf and passed >= needs:
                self.hypervisor.stop(uuid, "guest", "the guest shut down")
            elif passed >= timeout:
                return
            else:
                pauses = [timeout - passed, retry_interval or timeout, needs - passed]
                steps.current().sleep(min(pause for pause in pauses if pause > 0))

    def pause(self, instance: Instance) -> None:
        """Hold a guest's processors."""
        self.hypervisor.pause(instance.uuid)

    def unpause(self, instance: Instance) -> None:
        """Let a paused guest go on."""
        self.hypervisor.unpause(instance.uuid)

    def suspend(self, context: Context, instance: Instance) -> None:
        """Write a guest's memory to disk and free it."""
        self.hypervisor.save(instance.uuid)

    def resume(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Bring a suspended guest back."""
        network.check(network_info or ())
        self.hypervisor.restore(instance.uuid)

    def resume_state_on_host_boot(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Bring back a guest that ran before the host went down."""
        if self.hypervisor.get(instance.uuid).power is PowerState.SUSPENDED:
            self.hypervisor.restore(instance.uuid)
        else:
            self.hypervisor.start(instance.uuid, instance.start_paused)

    def poll_rebooting_instances(self, timeout: float, instances: Sequence[Instance]) -> None:
        """Reboot those hard whose guests have not come up again within ``timeout`` seconds."""
        now = clock.unix()
        for instance in instances:
            record = self.virtapi.instance_record(instance.uuid)
            if record is None or _age(record.updated_at, now) < timeout:
                continue
            if self.hypervisor.find(instance.uuid) is not None:
                self._end(instance, soft=False)
                self.hypervisor.start(instance.uuid)

    def set_bootable(self, instance: Instance, is_bootable: bool) -> None:
        """Say whether an instance may be switched on; the agent keeps it."""
        self.virtapi.set_bootable(instance.uuid, is_bootable)


def _age(timestamp: str, now: float) -> float:
    return now - clock.parse(timestamp).timestamp() if timestamp else float("inf")

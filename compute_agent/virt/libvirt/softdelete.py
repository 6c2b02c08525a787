# SPDX-License-Identifier: Apache-2.0
"""Soft deletion: a guest is off and all of it stays, until it is restored or reclaimed.

That an instance is soft-deleted is on its record; nothing at the hypervisor tells it from one that is
switched off. Each step looks first, so both members may be repeated.
"""

from compute_agent import steps
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.steps import Step
from compute_agent.virt.libvirt import guest
from compute_agent.virt.libvirt.power import LibvirtPower


class LibvirtSoftDelete(LibvirtPower):
    """Soft deletion, of the lifecycle concern."""

    def soft_delete(self, instance: Instance) -> None:
        """Switch the guest off and keep its disks; what suspend saved of it goes."""
        steps.run(self.soft_delete_steps(instance))

    def soft_delete_steps(self, instance: Instance) -> list[Step]:
        """Return the parts of :meth:`soft_delete`."""
        uuid = instance.uuid
        return [
            Step("stop", lambda: self._stop(uuid)),
            Step("drop_save", lambda: self._host.act_guest(uuid, guest.drop_save)),
        ]

    def restore(self, instance: Instance) -> None:
        """Take a soft deletion back: boot the guest."""
        steps.run(self.restore_steps(instance))

    def restore_steps(self, instance: Instance) -> list[Step]:
        """Return the parts of :meth:`restore`."""
        runs = self._is_in(instance.uuid, PowerState.RUNNING)
        return [
            Step("check", lambda: self._check_restorable(instance)),
            Step("start", lambda: self._start(instance, None), runs),
        ]

    def _check_restorable(self, instance: Instance) -> None:
        self._check_bootable(instance)
        self._check_networks(instance.network_info)

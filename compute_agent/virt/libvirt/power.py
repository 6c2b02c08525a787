# SPDX-License-Identifier: Apache-2.0
"""Power: reboot, power_on, power_off, pause, unpause, suspend, resume.

Each member looks at the domain and changes what is not so already, so repeating one is
harmless, also after a crash at any instant; it returns when its event went out.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.steps import Step
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.libvirt import events, fencing, files, guest, keys, local_disks, networks
from compute_agent.virt.libvirt.events import Expectation
from compute_agent.virt.libvirt.filtering.concern import LibvirtFiltering
from compute_agent.virt.libvirt.redesign import Redesign
from compute_agent.virt.libvirt.volumes import reach

LOG = logging.getLogger(__name__)

KILL_ATTEMPTS = 20
KILL_PAUSE_S = 0.3
SOFT_RETRY_S = 5.0
"""How often a SOFT reboot asks: a guest that is still booting misses the first time."""


class LibvirtPower(LibvirtFiltering):
    """The power concern."""

    def power_on(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Boot the guest; one that runs, or is paused, stays as it is."""
        self._check_bootable(instance)
        self._check_networks(network_info)
        self._check_volumes(instance)
        self._start(instance, network_info, instance.start_paused)

    def power_off(self, instance: Instance, timeout: float = 0, retry_interval: float = 0) -> None:
        """Ask the guest to shut down, after ``timeout`` seconds pull the plug. Drops what suspend saved."""
        steps.run(self.power_off_steps(instance, timeout, retry_interval))

    def power_off_steps(
        self, instance: Instance, timeout: float = 0, retry_interval: float = 0
    ) -> list[Step]:
        """Return the parts of :meth:`power_off`."""
        uuid = instance.uuid
        made = [
            Step("stop", lambda: self._stop(uuid)),
            Step("drop_save", lambda: self._host.act_guest(uuid, guest.drop_save)),
        ]
        if timeout > 0:
            made.insert(0, Step("ask", lambda: self._shut_down(uuid, timeout, retry_interval)))
        return made

    def reboot(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        reboot_type: str,
        block_device_info: BlockDeviceInfo = None,
        bad_volumes_callback: Callable[..., Any] | None = None,
    ) -> None:
        """End the guest (SOFT: by its own hand, if it wants) and boot it again."""
        steps.run(self.reboot_steps(context, instance, network_info, reboot_type, block_device_info))

    def reboot_steps(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        reboot_type: str,
        block_device_info: BlockDeviceInfo = None,
        bad_volumes_callback: Callable[..., Any] | None = None,
    ) -> list[Step]:
        """Return the parts of :meth:`reboot`.

        Which run of the guest is to end is noted first, so that a reboot that was interrupted
        after the guest came up again does not boot it a second time.
        """
        return _Reboot(self, instance, network_info, soft=reboot_type.upper() == "SOFT").steps()

    def pause(self, instance: Instance) -> None:
        """Hold the guest's processors."""
        uuid = instance.uuid
        with self._relay.expecting(uuid, events.PAUSED, self._is_in(uuid, PowerState.PAUSED)) as expected:
            self._host.act_guest(uuid, guest.pause, expected)

    def unpause(self, instance: Instance) -> None:
        """Let the guest's processors run."""
        uuid = instance.uuid
        with self._relay.expecting(uuid, events.RESUMED, self._is_in(uuid, PowerState.RUNNING)) as expected:
            self._host.act_guest(uuid, guest.unpause, expected)

    def suspend(self, context: Context, instance: Instance) -> None:
        """Write the guest's memory to disk and end its QEMU; survives a boot of the host."""
        steps.run(self.suspend_steps(instance))

    def suspend_steps(self, instance: Instance) -> list[Step]:
        """Return the parts of :meth:`suspend`."""
        return [Step("save", lambda: self._save(instance.uuid))]

    def _save(self, uuid: str) -> None:
        with self._relay.expecting(
            uuid, events.SUSPENDED, self._is_in(uuid, PowerState.SUSPENDED)
        ) as expected:
            self._host.act_guest(uuid, guest.save, expected)

    def resume(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Bring a suspended guest back; it runs then, also if it was paused before."""
        self._check_networks(network_info)
        self._check_ours(instance)
        self._check_volumes(instance)
        self.ensure_filtering_rules_for_instance(instance, network_info)
        uuid = instance.uuid
        opened = self._on_disk(local_disks.keys_of, instance, self._paths(instance))
        expecting = self._relay.expecting(uuid, events.RESUMED, self._is_in(uuid, PowerState.RUNNING))
        with keys.given(self._host, uuid, opened), expecting as expected:
            self._host.act_guest(uuid, guest.restore, expected, steps.current().resumed)

    def resume_state_on_host_boot(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """After the host has booted: bring back a guest that ran. One that is up stays as it is."""
        if self._power_state(instance.uuid) is PowerState.SUSPENDED:
            self.resume(context, instance, network_info, block_device_info)
        else:
            self.power_on(context, instance, network_info, block_device_info)

    def set_bootable(self, instance: Instance, is_bootable: bool) -> None:
        """Say whether the instance may be switched on. The agent keeps that; the domain does not change."""
        self.virtapi.set_bootable(instance.uuid, is_bootable)

    # --- shared with other concerns --------------------------------------------------------------

    def _check_bootable(self, instance: Instance) -> None:
        if not self.virtapi.is_bootable(instance.uuid):
            raise errors.InvalidState("the instance is marked as not bootable")

    def _check_networks(self, network_info: NetworkInfo) -> None:
        if network_info:
            self._on_disk(networks.check, network_info)

    def _check_volumes(self, instance: Instance, *, runs_too: bool = False) -> None:
        """Say whether a guest that is to be started finds its volumes.

        :param runs_too: it is to be ended first
        :raises VolumeUnavailable: naming one that it does not find
        """
        if instance.block_device_mapping and (runs_too or self._is_off(instance.uuid)):
            reach.check(self, instance)

    def _check_ours(self, instance: Instance) -> None:
        self._on_disk(fencing.check, self._paths(instance), instance.generation)

    def _start(self, instance: Instance, network_info: NetworkInfo, paused: bool = False) -> None:
        """Boot a guest, behind its filters.

        :param network_info: None for the interfaces of its description
        :raises WrongHost, StaleGeneration: if its disks belong to another host or a later placement
        """
        self._check_ours(instance)
        self.ensure_filtering_rules_for_instance(instance, network_info)
        uuid = instance.uuid
        transition, state = (
            (events.PAUSED, PowerState.PAUSED) if paused else (events.STARTED, PowerState.RUNNING)
        )
        opened = self._on_disk(local_disks.keys_of, instance, self._paths(instance))
        expecting = self._relay.expecting(uuid, transition, self._is_in(uuid, state))
        with keys.given(self._host, uuid, opened), expecting as expected:
            self._host.act_guest(uuid, guest.start, expected, paused)

    def _stop(self, uuid: str) -> None:
        """Pull the plug.

        :raises InstanceNotFound: if there is no such domain
        :raises DeviceBusy: if QEMU can't be ended
        """
        with self._relay.expecting(uuid, events.STOPPED, lambda: self._is_off(uuid)) as expected:
            for _ in range(KILL_ATTEMPTS):
                if self._host.act_guest(uuid, guest.pull_plug, expected):
                    return
                steps.current().sleep(KILL_PAUSE_S)
        raise errors.DeviceBusy(
            "QEMU does not end", hint="it waits for a disk that does not answer, or for the kernel: see dmesg"
        )

    def _shut_down(self, uuid: str, timeout: float, retry_interval: float) -> bool:
        """Ask the guest again and again to shut down; return whether it did within ``timeout`` seconds."""
        until = time.monotonic() + timeout
        with self._relay.expecting(uuid, events.STOPPED, lambda: self._is_off(uuid)) as expected:
            while (left := until - time.monotonic()) > 0 and self._host.act_guest(uuid, guest.press_button):
                if self._went_off(uuid, expected, min(left, retry_interval or left)):
                    expected.begin()
                    return True
        return False

    def _went_off(self, uuid: str, expected: Expectation, within: float) -> bool:
        return steps.current().wait(expected.seen, within) or self._is_off(uuid)


class _Reboot:
    """One reboot."""

    def __init__(
        self, driver: LibvirtPower, instance: Instance, network_info: NetworkInfo, soft: bool
    ) -> None:
        self._driver = driver
        self._instance = instance
        self._uuid = instance.uuid
        self._paths = driver._paths(instance)
        self._network_info = network_info
        self._soft = soft
        self._operation_id = steps.current().operation_id
        self._redesign = Redesign(driver, instance, network_info, self._operation_id)

    def steps(self) -> list[Step]:
        return [
            Step("note", self._note, done=self._noted),
            Step("stop", self._stop, done=self._stopped),
            *([] if self._soft else [Step("define", self._redesign.do, done=self._redesign.is_done)]),
            Step("start", self._start),
        ]

    def _note(self) -> None:
        self._driver._check_networks(self._network_info)
        self._driver._check_ours(self._instance)  # also before it is stopped: it could not be started again
        self._driver._check_volumes(self._instance, runs_too=True)
        seen = self._driver._host.ask_guest(self._uuid, guest.see)
        if self._operation_id is not None:
            note = files.Reboot(operation_id=self._operation_id, domain_id=seen.domain_id)
            self._driver._on_disk(files.write_reboot, self._paths, note)

    def _read(self) -> files.Reboot | None:
        if self._operation_id is None:
            return None
        note = self._driver._on_disk(files.read_reboot, self._paths)
        return note if note and note.operation_id == self._operation_id else None

    def _noted(self) -> bool:
        return self._read() is not None

    def _stopped(self) -> bool:
        note = self._read()
        return (
            note is not None
            and self._driver._host.ask_guest(self._uuid, guest.see).domain_id != note.domain_id
        )

    def _stop(self) -> None:
        if self._soft:
            self._driver._shut_down(self._uuid, CONF.libvirt.wait_soft_reboot_seconds, SOFT_RETRY_S)
        self._driver._stop(self._uuid)
        self._driver._host.act_guest(self._uuid, guest.drop_save)

    def _start(self) -> None:
        self._driver._check_volumes(self._instance)
        # The note stays: if we are killed right here, it tells the next attempt that all is done.
        self._driver._start(self._instance, self._network_info)

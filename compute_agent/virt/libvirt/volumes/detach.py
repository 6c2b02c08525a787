# SPDX-License-Identifier: Apache-2.0
"""Detaching a volume: first what runs lets it go, then the definition forgets it, then the host.

A guest has to release a device by itself, and may miss the request (while it boots), refuse it, or have no
way to hear it. So it is asked again and again, and libvirt's events tell how it went; nothing is taken by
force. Until the guest has released it everything stays as it was: what runs, the definition and the record
agree that it is attached.
"""

import logging
import time

import libvirt

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.libvirt import faults
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.signals import DeviceSignal, Listener
from compute_agent.virt.libvirt.volumes import connect, found
from compute_agent.virt.libvirt.volumes.connection import Volume
from compute_agent.virt.libvirt.volumes.found import Found

LOG = logging.getLogger(__name__)

MARGIN_S = 2.0
"""Kept of the operation's time, to tell a guest that refuses from one that was not given its time."""
REFUSED_PAUSE_S = 1.0
"""Before a guest that said no is asked again."""


class Detach:
    """One detach.

    :param volume: None where how it is connected is not known
    """

    def __init__(
        self, driver: LibvirtBase, instance: Instance, volume_id: str, volume: Volume | None
    ) -> None:
        self._driver = driver
        self._instance = instance
        self._uuid = instance.uuid
        self._id = volume_id
        self._volume = volume

    def steps(self) -> list[Step]:
        """Return the parts. There is nothing to undo: what the guest has released stays released.

        :raises InstanceNotFound: if there is no such guest
        :raises InvalidState: if it is suspended
        """
        if self._look().saved:
            raise errors.InvalidState("the instance is suspended", hint="resume it first")
        return [
            Step("release", self._release, done=self._is_released),
            Step("forget", self._forget),
            Step("disconnect", self._disconnect),
        ]

    def take_back(self) -> None:
        """Detach what was attached a moment ago. Safe to repeat, and safe where nothing was attached."""
        self._release()
        self._forget()

    def _look(self) -> Found:
        return self._driver._host.ask_guest(self._uuid, found.look, self._id)

    def _is_released(self) -> bool:
        return self._look().live is None

    # --- what runs -----------------------------------------------------------------------------------

    def _release(self) -> None:
        there = self._look()
        if there.live is None:
            return
        alias = there.live.alias or ""
        with self._driver._signals.listening(self._uuid, alias) as listener:
            if not self._ask_until_released(alias, listener):
                raise errors.DeviceBusy(
                    f"the guest does not release {there.live.target}",
                    hint="unmount it in the guest; a guest that is paused, or boots, can't release anything",
                )

    def _ask_until_released(self, alias: str, listener: Listener) -> bool:
        work, until = steps.current(), time.monotonic() + _patience()
        for _ in range(CONF.volumes.detach_attempts):
            work.check()
            self._ask(alias)
            pause = min(float(CONF.volumes.detach_timeout), until - time.monotonic())
            if self._went(listener, pause):
                return True
            if time.monotonic() >= until:
                break
        return self._is_released()

    def _ask(self, alias: str) -> None:
        try:
            self._driver._host.act_guest(self._uuid, _request, self._id, alias)
        except errors.HypervisorError as error:
            # The last request may be pending: QEMU takes no other before the guest has answered it.
            LOG.debug("volume %s of %s: %s", self._id, self._uuid, error.evidence)

    def _went(self, listener: Listener, seconds: float) -> bool:
        """Wait for the guest; return whether it released the device."""
        work, until = steps.current(), time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            work.wait(listener.rung, left)
            told = [signal for signal in listener.take() if isinstance(signal, DeviceSignal)]
            if self._is_released():
                return True
            if any(not signal.removed for signal in told):
                LOG.info("guest %s refuses to release volume %s", self._uuid, self._id)
                work.sleep(min(REFUSED_PAUSE_S, max(0.0, until - time.monotonic())))
                return self._is_released()
        return self._is_released()

    # --- the rest ------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._driver._host.act_guest(self._uuid, _forget, self._id)

    def _disconnect(self) -> None:
        if self._volume is not None:
            connect.disconnect(self._driver, self._volume, self._instance)
        else:
            connect.forget(self._driver, self._uuid, self._id)


def _patience() -> float:
    """Return for how many seconds a guest is asked: a bit less than the operation has."""
    wanted, left = (
        CONF.volumes.detach_attempts * float(CONF.volumes.detach_timeout),
        steps.current().remaining(),
    )
    return wanted if left is None else float(max(0.0, min(wanted, left - MARGIN_S)))


def _request(domain: libvirt.virDomain, volume_id: str, alias: str) -> None:
    """Ask the guest to release the device; returns at once. In a native thread."""
    there = found.look(domain, volume_id)
    if there.live is None or there.live.alias != alias:
        return
    try:
        domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        if faults.code(error) != libvirt.VIR_ERR_DEVICE_MISSING and not faults.is_wrong_state(error):
            raise


def _forget(domain: libvirt.virDomain, volume_id: str) -> None:
    """Take the disk out of the definition. In a native thread.

    :raises DeviceBusy: if it is still in what runs
    """
    there = found.look(domain, volume_id)
    if there.live is not None:
        raise errors.DeviceBusy(f"the guest has not released {there.live.target}")
    if there.kept is not None:
        domain.detachDeviceFlags(there.kept_xml, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

# SPDX-License-Identifier: Apache-2.0
"""Attaching a volume: to what runs and to the definition, both or none.

What an interrupted attempt left is found by looking at the guest, and finished or undone. Undone is only
what this operation did: a volume that was on the instance's record before stays, whatever happens.
"""

import dataclasses

import libvirt

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.libvirt import config, design_devices, faults
from compute_agent.virt.libvirt.base import LibvirtBase
from compute_agent.virt.libvirt.facts import HostFacts
from compute_agent.virt.libvirt.properties import Properties
from compute_agent.virt.libvirt.volumes import connect, found
from compute_agent.virt.libvirt.volumes.connection import Volume
from compute_agent.virt.libvirt.volumes.detach import Detach
from compute_agent.virt.libvirt.volumes.found import Found


class Attach:
    """One attach."""

    def __init__(self, driver: LibvirtBase, instance: Instance, volume: Volume) -> None:
        self._driver = driver
        self._instance = instance
        self._volume = volume
        self._uuid = instance.uuid
        self._id = volume.volume_id

    def steps(self) -> list[Step]:
        """Return the parts.

        :raises InstanceNotFound: if there is no such guest
        :raises DeviceBusy: if the volume is there under another name
        :raises InvalidState: if the guest is suspended
        """
        there = self._check()
        known = any(device.volume_id == self._id for device in self._instance.block_device_mapping)
        ours = not known and (there.half is None or steps.current().resumed)
        return [
            Step("connect", self._connect, undo=self._disconnect if ours else None),
            Step("device", self._attach, done=self._is_attached, undo=self._detach if ours else None),
        ]

    def _look(self) -> Found:
        return self._driver._host.ask_guest(self._uuid, found.look, self._id)

    def _check(self) -> Found:
        there, wish = self._look(), (self._volume.disk.target or "").removeprefix("/dev/")
        if there.saved:
            raise errors.InvalidState("the instance is suspended", hint="resume it first")
        if there.half is not None and wish and there.half.target != wish:
            raise errors.DeviceBusy(f"volume {self._id} is attached as {there.half.target}", retryable=False)
        if there.half is None:
            self._design(there)
        return there

    def _connect(self) -> None:
        connect.connect(self._driver, self._volume, self._instance)

    def _disconnect(self) -> None:
        connect.disconnect(self._driver, self._volume, self._instance)

    def _is_attached(self) -> bool:
        return self._look().whole

    def _attach(self) -> None:
        there = self._look()
        disk = self._design(there)
        try:
            self._driver._host.act_guest(self._uuid, _attach, self._id, disk.to_xml())
        except errors.HypervisorError as error:
            raise errors.VolumeUnavailable(
                "QEMU could not take the volume", evidence=error.evidence or error.message
            ) from error

    def _design(self, there: Found) -> config.Disk:
        """Return the disk; what is half there keeps its name."""
        asked, taken, disk = Properties.of(self._instance), there.taken, self._volume.disk
        if there.half is not None:
            return design_devices.one(_at(disk, there.half), asked, self._facts(), there.machine, ())
        return design_devices.one(disk, asked, self._facts(), there.machine, taken)

    def _facts(self) -> HostFacts:
        return self._driver._facts()

    def _detach(self) -> None:
        Detach(self._driver, self._instance, self._id, None).take_back()


def _at(disk: design_devices.GuestDisk, half: config.Disk) -> design_devices.GuestDisk:

    return dataclasses.replace(
        disk, target=f"/dev/{half.target}", bus=str(half.bus) if half.bus else disk.bus
    )


def _attach(domain: libvirt.virDomain, volume_id: str, xml: str) -> None:
    """Give the guest the disk where it has it not. In a native thread."""
    there = found.look(domain, volume_id)
    flags = 0 if there.kept is not None else libvirt.VIR_DOMAIN_AFFECT_CONFIG
    if there.active and there.live is None:
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    if not flags:
        return
    try:
        domain.attachDeviceFlags(xml, flags)
    except libvirt.libvirtError as error:
        if faults.is_lost(error) or not found.look(domain, volume_id).whole:
            raise

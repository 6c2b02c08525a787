# SPDX-License-Identifier: Apache-2.0
"""Cold migration and resize between fake hosts of one process, or on one.

What was at the source is kept aside in the instance's directory until the migration is confirmed, or
reverted: then the guest is exactly as it was.
"""

import json
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.fake import design, moving, network, peers, storage
from compute_agent.virt.fake.power import FakePower
from compute_agent.virt.fake.rebuild import Rebuild
from compute_agent.virt.fake.world import Directory, Disk


class FakeColdMigration(FakePower):
    """The cold half of the migration concern."""

    def migrate_disk_and_power_off(
        self,
        context: Context,
        instance: Instance,
        dest: str,
        flavor: Flavor,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        timeout: float = 0,
        retry_interval: float = 0,
    ) -> str:
        """Switch off and bring the disks to ``dest``."""
        directory = self.hypervisor.world.directories.get(instance.uuid, Directory())
        if directory.aside is None:
            self._check_sizes(directory, flavor)
            peer = self if dest in (self.host, CONF.my_ip) else peers.find(dest)
            if timeout > 0:
                self._shut_down(instance.uuid, timeout, retry_interval)
            self.hypervisor.stop(instance.uuid)
            self._leave(instance.uuid, directory, peer is self)
            if peer is not self:
                came = Directory(token="incoming", disks=directory.disks)
                peer.hypervisor.effect("receive", instance.uuid, directories=came)
        disks = directory.aside_disks or directory.disks
        return json.dumps([msgspec.to_builtins(disk) for disk in disks.values()])

    def _check_sizes(self, directory: Directory, flavor: Flavor) -> None:
        root = directory.disks.get("disk")
        if root is not None and flavor.root_gb and flavor.root_gb * design.GIB < root.size:
            raise errors.MigrationRefused("the root disk would have to shrink")

    def _leave(self, uuid: str, directory: Directory, stays: bool) -> None:
        domain = self.hypervisor.get(uuid)
        aside = Directory(
            token=directory.token,
            disks=directory.disks if stays else {},
            aside=msgspec.structs.replace(domain),
            aside_disks=directory.disks,
        )
        self.hypervisor.effect("set_aside", uuid, domain=None, directories=aside)

    def finish_migration(
        self,
        context: Context,
        migration: Any,
        instance: Instance,
        disk_info: str,
        network_info: NetworkInfo,
        image_meta: Image | None,
        resize_instance: bool,
        block_device_info: BlockDeviceInfo = None,
        power_on: bool = True,
    ) -> None:
        """Make the guest from the disks that came."""
        came = {name: disk for disk in msgspec.json.decode(disk_info) for name in (disk["name"],)}
        work = _Arrival(
            self, instance, image_meta, network_info, block_device_info, member="finish_migration"
        )
        work.came = {name: msgspec.convert(disk, Disk) for name, disk in came.items()}
        work.resize = resize_instance
        parts = work.steps()
        steps.run(parts if power_on else [step for step in parts if step.name != "start"])

    def confirm_migration(
        self, context: Context, migration: Any, instance: Instance, network_info: NetworkInfo
    ) -> None:
        """Remove what was kept aside."""
        directory = self.hypervisor.world.directories.get(instance.uuid)
        if directory is None or directory.aside is None:
            return
        here = instance.uuid in self.hypervisor.world.domains
        left = Directory(directory.token, directory.disks) if here else None
        self.hypervisor.effect("confirm", instance.uuid, directories=left)
        if not here:
            storage.disconnect_all(self.hypervisor, instance.uuid)
            network.unplug(self, instance)

    def finish_revert_migration(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        power_on: bool = True,
    ) -> None:
        """Bring the instance back exactly as it was."""
        directory = self.hypervisor.world.directories.get(instance.uuid, Directory())
        if directory.aside is not None:
            if self.hypervisor.find(instance.uuid) is not None:
                self.hypervisor.stop(instance.uuid)
                self.hypervisor.undefine(instance.uuid)
            back = Directory(directory.aside.token, directory.aside_disks)
            self.hypervisor.effect(
                "revert", instance.uuid, domain=moving.fields(directory.aside), directories=back
            )
        network.plug(self, instance, network_info or ())
        if power_on:
            self.hypervisor.start(instance.uuid)


class _Arrival(Rebuild):
    """A guest is made from disks that came."""

    came: dict[str, Disk]
    resize = False

    def _make_disks(self) -> None:
        before = self._hypervisor.world.directories.get(self._uuid, Directory())
        made = Directory(self._token, self._disks(), before.aside, before.aside_disks)
        self._hypervisor.effect("make_disks", self._uuid, directories=made)

    def _disks(self) -> dict[str, Disk]:
        if not self.resize:
            return self.came
        wanted = self._design.disks
        return {
            name: msgspec.structs.replace(disk, size=max(disk.size, wanted[name].size))
            if name in wanted
            else disk
            for name, disk in self.came.items()
        }

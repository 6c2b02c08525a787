# SPDX-License-Identifier: Apache-2.0
"""Cold migration and resize of fake guests, between two hosts or on one.

What was at the source is kept aside in the instance's directory until the migration is confirmed, or
reverted: then the guest is exactly as it was.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.flavor import Flavor
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.fake import design, moving, network, sending, storage
from compute_agent.virt.fake.host import FakeHost
from compute_agent.virt.fake.power import FakePower
from compute_agent.virt.fake.rebuild import Rebuild
from compute_agent.virt.fake.sending import Sending
from compute_agent.virt.fake.world import Directory, Disk
from compute_agent.virt.info import LiveMigrateData


class FakeColdMigration(FakePower, FakeHost):
    """The cold half of the migration concern."""

    transfer_time = 0.0

    def __init__(self, virtapi: Any) -> None:
        super().__init__(virtapi)
        self._sendings: dict[str, Sending] = {}

    # --- before --------------------------------------------------------------------------------------

    def check_can_receive_disks(
        self, context: Context, instance: Instance, source_info: Mapping[str, Any]
    ) -> LiveMigrateData:
        """See whether a guest that is off may come. Fake hosts share no storage."""
        if source_info.get("hypervisor_type") != "fake":
            raise errors.MigrationRefused("the source is of another kind")
        world = self.hypervisor.world
        if instance.uuid in world.domains or instance.name in world.uuids:
            raise errors.MigrationRefused("a guest of that uuid or name is here already")
        problems = self.validate_parameters(instance)
        if problems:
            raise errors.MigrationRefused("; ".join(problem.message for problem in problems))
        storage.check_room(self.hypervisor, design.design(instance, instance.image, None).size)
        return LiveMigrateData(
            instance_uuid=instance.uuid,
            source_host=str(source_info.get("hypervisor_hostname", "")),
            dest_host=self.host,
        )

    def check_can_send_disks(
        self,
        context: Context,
        instance: Instance,
        data: LiveMigrateData,
        block_device_info: BlockDeviceInfo = None,
        flavor: Flavor | None = None,
    ) -> LiveMigrateData:
        """See whether the disks may go, and say which they are."""
        self.hypervisor.get(instance.uuid)
        directory = self.hypervisor.world.directories.get(instance.uuid, Directory())
        self._check_sizes(directory, flavor or instance.flavor)
        disks = [msgspec.to_builtins(disk) for disk in directory.disks.values()]
        return msgspec.structs.replace(data, details={**data.details, "disks": disks})

    # --- the move ------------------------------------------------------------------------------------

    def receive_disks(self, context: Context, instance: Instance, data: LiveMigrateData) -> LiveMigrateData:
        """Open the door for what is to come."""
        self.poll_outside()
        if data.reverting:
            if self._directory(instance.uuid).aside is None:
                raise errors.MigrationRefused("nothing is set aside here", retryable=False)
            return data
        network.check(instance.network_info)
        door = sending.open_door(self.hypervisor, instance.uuid)
        return msgspec.structs.replace(data, details={**data.details, "door": door})

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
        """Switch off and set aside what is here."""
        directory = self._directory(instance.uuid)
        if directory.aside is None:
            self._check_sizes(directory, flavor)
            if timeout > 0:
                self._shut_down(instance.uuid, timeout, retry_interval)
            self.hypervisor.stop(instance.uuid)
            self._meet("migrate_disk_and_power_off.aside", instance.uuid)
            self._leave(instance.uuid, directory, dest in (self.host, CONF.my_ip))
        disks = directory.aside_disks or directory.disks
        return json.dumps([msgspec.to_builtins(disk) for disk in disks.values()])

    def _directory(self, uuid: str) -> Directory:
        return self.hypervisor.world.directories.get(uuid, Directory())

    def _check_sizes(self, directory: Directory, flavor: Flavor) -> None:
        root = directory.disks.get("disk")
        if root is not None and flavor.root_gb and flavor.root_gb * design.GIB < root.size:
            raise errors.MigrationRefused("the root disk would have to shrink", retryable=False)

    def _leave(self, uuid: str, directory: Directory, stays: bool) -> None:
        domain = self.hypervisor.get(uuid)
        aside = Directory(
            token=directory.token,
            disks=directory.disks if stays else {},
            aside=msgspec.structs.replace(domain),
            aside_disks=directory.disks,
        )
        released = {} if stays else {"plugged": None, "filters": None, "volumes": None}
        self.hypervisor.effect("set_aside", uuid, domain=None, directories=aside, **released)

    def send_disks(self, context: Context, instance: Instance, data: LiveMigrateData) -> None:
        """Bring over what was set aside, disk by disk, and note that."""
        uuid = instance.uuid
        if self._directory(uuid).sent:
            return
        work = self._sendings[uuid] = Sending(self.hypervisor, uuid, self.transfer_time)
        try:
            if not data.reverting:
                self._meet("send_disks.transfer", uuid)
                work.send(data.dest_host, data.details.get("door"))
            noted = msgspec.structs.replace(self._directory(uuid), sent=True)
            self.hypervisor.effect("sent", uuid, directories=noted)
        finally:
            del self._sendings[uuid]

    # --- after ---------------------------------------------------------------------------------------

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
        self.poll_outside()  # what the other host has written has happened before
        work = _Arrival(
            self, instance, image_meta, network_info, block_device_info, member="finish_migration"
        )
        told = msgspec.json.decode(disk_info, type=list[Disk])
        work.came = self._directory(instance.uuid).came or {disk.name: disk for disk in told}
        work.resize = resize_instance
        parts = work.steps()
        steps.run(parts if power_on else [step for step in parts if step.name != "start"])

    def drop_received(self, context: Context, instance: Instance, data: LiveMigrateData) -> None:
        """Remove what came. What was set aside here before stays."""
        self.poll_outside()
        if data.reverting:
            return
        if instance.uuid in self.hypervisor.world.domains:
            raise errors.InvalidState("the guest was made of it already")
        sending.remove(self.hypervisor, instance.uuid)

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
        for volume, kind in design.design(instance, instance.image, block_device_info).volumes.items():
            storage.connect(self.hypervisor, instance.uuid, volume, kind)
        if power_on:
            self.hypervisor.start(instance.uuid)


class _Arrival(Rebuild):
    """A guest is made from disks that came."""

    came: dict[str, Disk]
    resize = False

    def _admit_loss(self) -> None:
        """Nothing is lost if it fails: the disks are those that came."""

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

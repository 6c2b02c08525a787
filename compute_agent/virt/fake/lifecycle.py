# SPDX-License-Identifier: Apache-2.0
"""Lifecycle: guests come to the fake host, are made anew, and go."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, InjectedFiles, NetworkInfo
from compute_agent.virt.fake import network, storage
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.fake.described import describe
from compute_agent.virt.fake.evacuation import Evacuation
from compute_agent.virt.fake.rebuild import Rebuild
from compute_agent.virt.fake.spawn import Spawn

LOG = logging.getLogger(__name__)


class FakeLifecycle(FakeBase):
    """The lifecycle concern."""

    def spawn_steps(
        self,
        context: Context,
        instance: Instance,
        image_meta: Image | None,
        injected_files: InjectedFiles,
        admin_password: str | None,
        allocations: Mapping[str, Any] | None,
        network_info: NetworkInfo = None,
        block_device_info: BlockDeviceInfo = None,
    ) -> list[Step]:
        """Return the parts of :meth:`spawn`."""
        work = Spawn(
            self,
            instance,
            image_meta,
            network_info,
            block_device_info,
            admin_password,
            injected_files=injected_files,
        )
        return work.steps()

    def spawn(
        self,
        context: Context,
        instance: Instance,
        image_meta: Image | None,
        injected_files: InjectedFiles,
        admin_password: str | None,
        allocations: Mapping[str, Any] | None,
        network_info: NetworkInfo = None,
        block_device_info: BlockDeviceInfo = None,
    ) -> None:
        """Make a guest and start it."""
        steps.run(
            self.spawn_steps(
                context,
                instance,
                image_meta,
                injected_files,
                admin_password,
                allocations,
                network_info,
                block_device_info,
            )
        )

    def destroy_steps(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        destroy_disks: bool = True,
    ) -> list[Step]:
        """Return the parts of :meth:`destroy`."""
        uuid, world = instance.uuid, self.hypervisor.world
        made = [
            self._step("destroy", "stop", instance, lambda: self._stop_if_there(uuid)),
            self._step(
                "destroy",
                "undefine",
                instance,
                lambda: self.hypervisor.undefine(uuid),
                done=lambda: uuid not in world.domains,
            ),
            self._step("destroy", "volumes", instance, lambda: storage.disconnect_all(self.hypervisor, uuid)),
            self._step("destroy", "network", instance, lambda: network.unplug(self, instance)),
        ]
        if destroy_disks:
            made.append(
                self._step(
                    "destroy",
                    "disks",
                    instance,
                    lambda: self._remove_files(uuid),
                    done=lambda: uuid not in world.directories,
                )
            )
        return made

    def destroy(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        destroy_disks: bool = True,
    ) -> None:
        """Stop a guest, whatever it does, and remove it."""
        steps.run(self.destroy_steps(context, instance, network_info, block_device_info, destroy_disks))

    def cleanup(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
    ) -> None:
        """Remove what is left of a destroyed instance.

        :raises InvalidState: if the guest is up: only destroy ends one
        """
        domain = self.hypervisor.find(instance.uuid)
        if domain is not None and domain.is_up:
            raise errors.InvalidState("the instance is up", hint="destroy it first")
        self.hypervisor.undefine(instance.uuid)
        storage.disconnect_all(self.hypervisor, instance.uuid)
        if destroy_vifs:
            network.unplug(self, instance)
        if destroy_disks:
            self._remove_files(instance.uuid)

    def rebuild(
        self,
        context: Context,
        instance: Instance,
        image_meta: Image | None,
        injected_files: InjectedFiles,
        admin_password: str | None,
        allocations: Mapping[str, Any] | None,
        bdms: Sequence[Any],
        detach_block_devices: Any,
        attach_block_devices: Any,
        network_info: NetworkInfo = None,
        recreate: bool = False,
        block_device_info: BlockDeviceInfo = None,
        preserve_ephemeral: bool = False,
    ) -> None:
        """Make a guest anew from another image."""
        if recreate:
            reuse = image_meta is None and preserve_ephemeral
            kind, image = (Evacuation, instance.image) if reuse else (Spawn, image_meta)
            made = kind(self, instance, image, network_info, block_device_info, admin_password, "evacuate")
            steps.run(made.steps())
            return
        self.hypervisor.get(instance.uuid)
        if detach_block_devices is not None:
            detach_block_devices(context, bdms)
        if attach_block_devices is not None:
            block_device_info = attach_block_devices(context, instance, bdms)
        work = Rebuild(
            self,
            instance,
            image_meta,
            network_info,
            block_device_info,
            admin_password,
            "rebuild",
            injected_files,
        )
        work.preserve_ephemeral = preserve_ephemeral
        steps.run(work.steps())

    def soft_delete(self, instance: Instance) -> None:
        """Switch an instance off and keep it."""
        self.hypervisor.stop(instance.uuid)

    def restore(self, instance: Instance) -> None:
        """Switch a soft-deleted instance on."""
        self.hypervisor.start(instance.uuid)

    def instance_exists(self, instance: Instance) -> bool:
        """Return whether there is a guest of the instance."""
        return instance.uuid in self.hypervisor.world.domains

    def instance_on_disk(self, instance: Instance) -> bool:
        """Return whether the instance's directory is here."""
        return instance.uuid in self.hypervisor.world.directories

    def delete_instance_files(self, instance: Instance) -> bool:
        """Remove the instance's directory."""
        self._remove_files(instance.uuid)
        return True

    def set_description(self, instance: Instance) -> None:
        """Put a changed description beside the guest."""
        self.hypervisor.get(instance.uuid)
        changes = {"described": describe(instance.named()), "generation": instance.generation}
        self.hypervisor.effect("describe", instance.uuid, domain=changes)

    def _stop_if_there(self, uuid: str) -> None:
        if self.hypervisor.find(uuid) is None:
            LOG.warning("there is no guest %s to destroy", uuid)
        else:
            self.hypervisor.stop(uuid)

    def _remove_files(self, uuid: str) -> None:
        if uuid in self.hypervisor.world.directories:
            self.hypervisor.effect("remove_files", uuid, directories=None)

# SPDX-License-Identifier: Apache-2.0
"""Lifecycle: spawn, destroy, and what is left of an instance.

Domains are looked up by uuid, files by the path that the uuid leads to, so clean-up needs no
notes and may be repeated.
"""

import logging
from collections.abc import Mapping
from typing import Any

from lxml import etree

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, InjectedFiles, NetworkInfo
from compute_agent.virt.libvirt import fencing, files, guest, metadata
from compute_agent.virt.libvirt.diagnostics import LibvirtDiagnostics
from compute_agent.virt.libvirt.softdelete import LibvirtSoftDelete
from compute_agent.virt.libvirt.spawn import Spawn
from compute_agent.virt.libvirt.volumes import connect as volumes

LOG = logging.getLogger(__name__)


class LibvirtLifecycle(LibvirtSoftDelete, LibvirtDiagnostics):
    """The lifecycle concern."""

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
        """Make a guest and start it; see the contract."""
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
        extras = {
            "injected_files": injected_files,
            "admin_password": admin_password,
            "block_device_info": block_device_info,
        }
        return Spawn(self, instance, image_meta, list(network_info or ()), extras).steps()

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

    def destroy_steps(
        self,
        context: Context,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDeviceInfo = None,
        destroy_disks: bool = True,
    ) -> list[Step]:
        """Return the parts of :meth:`destroy`."""
        made = [
            Step("stop", lambda: self._stop_if_there(instance.uuid)),
            Step("undefine", lambda: self._undefine(instance.uuid)),
            Step("volumes", lambda: volumes.disconnect_all(self, instance)),
        ]
        if destroy_disks:
            made.append(Step("files", lambda: self.delete_instance_files(instance)))
        return made

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
        """Remove what is left of a destroyed instance. A tap device goes with its QEMU.

        :raises InvalidState: if the guest is up: only destroy ends one
        """
        if not self._is_off(instance.uuid):
            raise errors.InvalidState("the instance is up", hint="destroy it first")
        self._undefine(instance.uuid)
        if destroy_disks:
            self.delete_instance_files(instance)

    def instance_exists(self, instance: Instance) -> bool:
        """Return whether there is a domain of the instance, running or not."""
        return self._power_state(instance.uuid) is not None

    def instance_on_disk(self, instance: Instance) -> bool:
        """Return whether the instance's directory is here."""
        return self._on_disk(files.is_there, self._paths(instance).directory)

    def delete_instance_files(self, instance: Instance) -> bool:
        """Remove the instance's files; return False where they are another host's or a later placement's."""
        try:
            self._on_disk(fencing.remove, self._paths(instance), instance.generation)
        except (errors.WrongHost, errors.StaleGeneration, errors.InvalidState) as error:
            LOG.warning("the files of instance %s stay: %s", instance.uuid, error.message)
            return False
        return True

    def set_description(self, instance: Instance) -> None:
        """Put a changed description into the domain; the operation that made the domain stays in it."""
        self._check_filters(instance)
        self._on_disk(fencing.raise_generation, self._paths(instance), instance.generation)
        found = metadata.read(self._host.ask_guest(instance.uuid, guest.definition))
        operation_id = found.operation_id if found else None
        described = metadata.describe(instance.named(), instance.generation, operation_id)
        self._host.act_guest(instance.uuid, guest.write_description, _without_namespace(described))

    # --- shared with other concerns ----------------------------------------------------------------

    def _stop_if_there(self, uuid: str) -> None:
        try:
            self._stop(uuid)
        except errors.InstanceNotFound:
            LOG.warning("there is no domain %s to destroy", uuid)

    def _undefine(self, uuid: str) -> None:
        """Forget a domain that is off, and its filters: they go first, so that no attempt overlooks them."""
        self._drop_filters(uuid)
        try:
            self._host.act_guest(uuid, guest.undefine)
        except errors.InstanceNotFound:
            LOG.debug("there is no domain %s to undefine", uuid)

    def _with_last_words(self, error: errors.HypervisorError, instance: Instance) -> errors.HypervisorError:
        """Return ``error`` with the end of QEMU's log as further evidence."""
        words = self.get_last_words(instance.named()).get("hypervisor", "")
        known = error.evidence or ""
        evidence = f"{words[-errors.EVIDENCE_LIMIT // 2 :]}\n{known[-errors.EVIDENCE_LIMIT // 2 :]}"
        return errors.HypervisorError(error.message, step=error.step, evidence=evidence.strip())


def _without_namespace(node: etree._Element) -> str:
    """Return a description as libvirt's ``setMetadata`` takes it: it puts the namespace in itself."""
    plain = etree.Element(etree.QName(node).localname)
    for name, value in node.attrib.items():
        plain.set(name, value)
    plain.text = node.text
    return etree.tostring(plain, encoding="unicode")

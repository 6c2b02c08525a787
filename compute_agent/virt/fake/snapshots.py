# SPDX-License-Identifier: Apache-2.0
"""Snapshots: copies of a fake guest's disk, and points in its volumes' chains."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.secrets import public
from compute_agent.virt.contract.base import Context
from compute_agent.virt.fake import storage
from compute_agent.virt.fake.base import FakeBase
from compute_agent.virt.fake.world import Device, Directory, Disk

COPY = "snapshot.part"
PENDING, UPLOADING = "image_pending_upload", "image_uploading"


class FakeSnapshots(FakeBase):
    """The snapshots concern."""

    def snapshot(
        self, context: Context, instance: Instance, image_id: Any, update_task_state: Callable[..., Any]
    ) -> dict[str, Any]:
        """Copy the instance's disk to a destination."""
        self.hypervisor.get(instance.uuid)
        work = _Snapshot(self, instance, image_id, update_task_state)
        steps.run(
            [
                self._step("snapshot", "copy", instance, work.copy, undo=work.drop),
                self._step("snapshot", "upload", instance, work.upload),
                self._step("snapshot", "clean", instance, work.drop),
            ]
        )
        return {"url": work.url, "size_bytes": work.root.size}

    def post_interrupted_snapshot_cleanup(self, context: Context, instance: Instance) -> None:
        """Remove what an interrupted snapshot left."""
        _drop(self, instance.uuid)

    def volume_snapshot_create(
        self, context: Context, instance: Instance, volume_id: str, create_info: Mapping[str, Any]
    ) -> None:
        """Take a snapshot of a volume."""
        device = storage.attached(self.hypervisor.get(instance.uuid), volume_id)
        point = str(create_info["snapshot_id"])
        if point not in device.chain:
            self._set_chain(instance, device, [*device.chain, point])

    def volume_snapshot_delete(
        self,
        context: Context,
        instance: Instance,
        volume_id: str,
        snapshot_id: str,
        delete_info: Mapping[str, Any],
    ) -> None:
        """Merge a snapshot of a volume back."""
        device = storage.attached(self.hypervisor.get(instance.uuid), volume_id)
        if snapshot_id in device.chain:
            self._set_chain(instance, device, [point for point in device.chain if point != snapshot_id])

    def _set_chain(self, instance: Instance, device: Device, chain: list[str]) -> None:
        domain = self.hypervisor.get(instance.uuid)
        changed = {**domain.devices, device.target: msgspec.structs.replace(device, chain=chain)}
        self.hypervisor.effect("volume_snapshot", instance.uuid, domain={"devices": changed})

    def quiesce(self, context: Context, instance: Instance, image_meta: Image | None) -> None:
        """Freeze the guest's file systems."""
        self._freeze(instance, True)

    def unquiesce(self, context: Context, instance: Instance, image_meta: Image | None) -> None:
        """Thaw the guest's file systems."""
        self._freeze(instance, False)

    def _freeze(self, instance: Instance, frozen: bool) -> None:
        domain = self.hypervisor.running(instance.uuid)
        if not domain.has_agent:
            raise errors.QuiesceNotSupported("the guest has no agent")
        if domain.frozen != frozen:
            effect = "freeze" if frozen else "thaw"
            self.hypervisor.effect(effect, instance.uuid, domain={"frozen": frozen})


class _Snapshot:
    def __init__(
        self, driver: FakeSnapshots, instance: Instance, destination: Any, tell: Callable[..., Any]
    ) -> None:
        self._driver = driver
        self._uuid = instance.uuid
        self.url = str(getattr(destination, "url", destination))
        self._tell = tell
        directory = driver.hypervisor.world.directories.get(instance.uuid, Directory())
        root = directory.disks.get("disk")
        if root is None:
            raise errors.InvalidState("the instance has no disk of its own to copy")
        self.root = root

    def copy(self) -> None:
        hypervisor = self._driver.hypervisor
        storage.check_room(hypervisor, self.root.size)
        self._tell(task_state=PENDING)
        directory = hypervisor.world.directories[self._uuid]
        disks = {**directory.disks, COPY: Disk(COPY, self.root.size)}
        copied = msgspec.structs.replace(directory, disks=disks)
        hypervisor.effect("snapshot", self._uuid, directories=copied)

    def upload(self) -> None:
        hypervisor = self._driver.hypervisor
        self._tell(task_state=UPLOADING, expected_state=PENDING)
        if self.url in hypervisor.unreachable:
            raise errors.ImageUnavailable(f"{public(self.url)} can't be reached")
        host = hypervisor.world.host
        uploads = {**host.uploads, self.url: self._uuid}
        hypervisor.effect("upload", None, host=msgspec.structs.replace(host, uploads=uploads))

    def drop(self) -> None:
        _drop(self._driver, self._uuid)


def _drop(driver: FakeSnapshots, uuid: str) -> None:
    directory = driver.hypervisor.world.directories.get(uuid)
    if directory is not None and COPY in directory.disks:
        disks = {name: disk for name, disk in directory.disks.items() if name != COPY}
        left = msgspec.structs.replace(directory, disks=disks)
        driver.hypervisor.effect("drop_snapshot", uuid, directories=left)

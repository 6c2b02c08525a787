# SPDX-License-Identifier: Apache-2.0
"""The making of an instance's disks on this host, for whoever makes them: a spawn, a rebuild, an evacuation.

What is to be made is noted first (:meth:`DiskMaker.note`), then come the keys, then the disks one by one.
Each has its name only when it is whole.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.virt.images import disks as images
from compute_agent.virt.images.cache import CachedImage
from compute_agent.virt.images.disks import GIB, Making
from compute_agent.virt.libvirt import files, keys, local_disks
from compute_agent.virt.libvirt.design_devices import DiskRole
from compute_agent.virt.libvirt.local_disks import LocalDisk
from compute_agent.virt.libvirt.paths import InstancePaths

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.base import LibvirtBase


class DiskMaker:
    """Makes the disks of one instance."""

    def __init__(self, driver: "LibvirtBase", instance: Instance, paths: InstancePaths) -> None:
        self._driver = driver
        self._instance = instance
        self._paths = paths
        self._cached: dict[str, CachedImage] = {}

    def wanted(self) -> list[LocalDisk]:
        """Return the disks that the instance should have.

        :raises InvalidArguments: if one can't be made as asked
        :raises UnsupportedOperation: if an encryption is asked for that is not offered
        """
        return local_disks.wanted(self._instance, self._driver._settings())

    def check(self) -> None:
        """Say whether the disks can be made. Raises as :meth:`wanted`.

        :raises HypervisorError: if a program that is needed is not installed
        """
        for disk in self.wanted():
            if disk.image is None and disk.file_system is not None:
                images.mkfs(disk.file_system, disk.serial, "/")

    def noted(self) -> list[LocalDisk]:
        """Return the disks as they were noted. In a native thread."""
        return local_disks.of(self._instance, self._paths, self._driver._settings())

    def note(self) -> None:
        """Note what the disks are to be. In a native thread.

        :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
        """
        local_disks.note(self._paths, self.wanted())

    def fetch(self, disks: Iterable[LocalDisk]) -> None:
        """Have the images here that disks begin with. Raises as :meth:`ImageCache.ensure`."""
        for disk in disks:
            if disk.image is not None:
                self._ensure(disk)

    def fetch_detail(self, disks: Iterable[LocalDisk]) -> Mapping[str, Any]:
        """Return what :meth:`fetch` would do, for a plan."""
        wanted = [disk.image for disk in disks if disk.image is not None]
        try:
            missing = [image for image in wanted if self._driver._images.cached(image) is None]
        except errors.ComputeError as error:
            return {"problems": [error.to_error()]}
        return {"bytes": sum(image.size_bytes for image in missing), "cached": not missing}

    def make_keys(self, disks: Iterable[LocalDisk]) -> None:
        """Have a key for each encrypted disk. Repeating it is harmless. Raises as :func:`keys.make`."""
        wanted = {disk.name: disk.passphrase for disk in disks if disk.encrypted}
        if wanted:
            self._driver._on_disk(keys.make, self._paths.uuid, wanted)

    def is_made(self, disk: LocalDisk) -> bool:
        """Return whether a disk is there, which means that it is whole."""
        return self._driver._on_disk(files.is_there, self._paths.file(disk.name))

    def make(self, disks: Iterable[LocalDisk]) -> None:
        """Make those of ``disks`` that are not there.

        :raises DiskFull: if there is no room
        :raises ImageTooLarge: if an image does not fit its disk
        :raises HypervisorError, Timeout, Cancelled: as :func:`images.create_overlay`
        """
        for disk in disks:
            if not self.is_made(disk):
                self.make_at(disk, self._paths.file(disk.name))

    def make_at(self, disk: LocalDisk, path: str) -> None:
        """Make a disk, in another place than its own perhaps. Raises as :meth:`make`."""
        how = self._how(disk)
        if disk.image is not None:
            self._make_of_image(disk, disk.image, path, how)
        elif disk.role is DiskRole.SWAP:
            images.create_swap(path, disk.size_bytes, disk.format, disk.serial, how)
        elif disk.file_system is not None:
            images.create_formatted(path, disk.size_bytes, disk.format, disk.file_system, disk.serial, how)
        else:
            images.create_blank(path, disk.size_bytes, disk.format, how)

    def _make_of_image(self, disk: LocalDisk, image: Image, path: str, how: Making) -> None:
        cached = self._ensure(disk)
        size = images.root_size(disk.size_bytes // GIB, cached.virtual_size, image.min_disk_gb)
        if disk.overlay and disk.format == "qcow2":
            images.create_overlay(path, cached.path, cached.format, size, how)
        else:
            images.create_copy(path, cached.path, cached.format, size, disk.format, how)

    def _how(self, disk: LocalDisk) -> Making:
        key = keys.path(self._paths.uuid, disk.name) if disk.encrypted else None
        return Making(key=key, stretch=disk.passphrase is not None, preallocate=disk.preallocate)

    def _ensure(self, disk: LocalDisk) -> CachedImage:
        assert disk.image is not None
        found = self._cached.get(disk.name)
        if found is None:
            found = self._cached[disk.name] = self._driver._images.ensure(disk.image)
        return found

# SPDX-License-Identifier: Apache-2.0
"""A guest is made from what came: files get names, disks their sizes, and it is designed for this host.

Only after the source has given it away, so nothing is undone: what fails is tried again from what is there.
"""

import os
from typing import TYPE_CHECKING

from compute_agent.model import errors
from compute_agent.model.instance import Instance
from compute_agent.model.vif import Vif
from compute_agent.steps import Step
from compute_agent.virt.images import disks as images
from compute_agent.virt.images.disks import Making
from compute_agent.virt.libvirt import config, disks, fencing, files, keys, local_disks
from compute_agent.virt.libvirt.coldmigration import aside, processes, receiving, transit
from compute_agent.virt.libvirt.coldmigration.details import Base, Details, Manifest, Moved
from compute_agent.virt.libvirt.coldmigration.receiving import Receiving
from compute_agent.virt.libvirt.design_devices import DiskRole, GuestDisk
from compute_agent.virt.libvirt.disk_making import DiskMaker
from compute_agent.virt.libvirt.local_disks import LocalDisk
from compute_agent.virt.libvirt.migration import guestxml
from compute_agent.virt.libvirt.migration.details import Destination
from compute_agent.virt.libvirt.renewal import Renewal
from compute_agent.virt.libvirt.volumes import connect as volumes

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle


class Arrival(Renewal):
    """One arrival.

    :param instance: as it is to be here
    :param resize: the disks get the sizes of the flavor
    """

    def __init__(
        self,
        driver: "LibvirtLifecycle",
        instance: Instance,
        vifs: list[Vif],
        found: Details,
        *,
        resize: bool,
        power_on: bool,
    ) -> None:
        super().__init__(driver, instance, vifs)
        self._found = found
        self._resize, self._power_on = resize, power_on
        self._directory = transit.incoming(instance.uuid)
        self._maker = DiskMaker(driver, self._instance, self._paths)

    def steps(self) -> list[Step]:
        """Return the parts."""
        made = [
            Step("close", lambda: self._driver._on_disk(processes.end, self._directory)),
            Step("claim", self._claim),
        ]
        if self._found.disks:
            made.append(Step("files", self._name_files, self._has_files))
        if self._resize:
            made.append(Step("resize", self._fit_disks))
        if self._instance.block_device_mapping:
            made.append(Step("volumes", lambda: volumes.connect_all(self._driver, self._instance)))
        made.append(Step("define", self._define_here, lambda: self._made_by_us(self._definition())))
        if self._power_on:
            made.append(Step("start", self._start))
        return [*made, Step("forget", self._forget)]

    def _claim(self) -> None:
        """Put our name on the files: from now on no other host starts a guest on them."""
        if not self._driver._on_disk(files.is_there, self._paths.directory):
            raise errors.InvalidState(f"the instance's files are not here: {self._paths.directory}")
        owner = fencing.owner(self._instance.generation, self._token)
        self._driver._on_disk(aside.claim, self._paths, owner)

    # --- files -------------------------------------------------------------------------------------

    def _receiving(self) -> Receiving | None:
        return self._driver._on_disk(transit.read, self._directory, receiving.NOTE, Receiving)

    def _manifest(self) -> Manifest:
        return self._driver._on_disk(receiving.manifest, self._directory)

    def _has_files(self) -> bool:
        """Whether all of them have their names: then nothing is left in the making."""
        noted = self._receiving()
        if noted is None:
            return self._made_by_us(self._definition())
        parts = [receiving.part(file, self._paths, self._directory) for file in noted.files]
        return not any(self._driver._on_disk(files.is_there, part) for part in parts)

    def _name_files(self) -> None:
        noted, manifest = self._receiving(), self._manifest()
        if noted is None:
            raise errors.InvalidState("the disks of the instance have not come")
        on_disk = self._driver._on_disk
        on_disk(receiving.publish_keys, self._paths, self._directory, manifest.files)
        images_here = dict(noted.images)
        for file in manifest.files:
            if file.kind == "base":
                images_here[file.name] = self._take_base(file)
        for file in manifest.files:
            if file.kind == "file":
                self._take_file(file, images_here)
        arrived = receiving.Arrived(keys=any(file.kind == "key" for file in manifest.files))
        on_disk(files.write_note, self._paths, receiving.ARRIVED, arrived)
        for file in manifest.files:
            if file.kind == "key":
                on_disk(images.remove, receiving.part(file, self._paths, self._directory))

    def _take_base(self, file: Moved) -> str:
        cache = self._driver._images.directory
        source = receiving.part(file, self._paths, self._directory)
        self._driver._on_disk(receiving.publish_base, source, cache, self._base(file.name), file.size_bytes)
        return os.path.join(cache, file.name)

    def _base(self, name: str) -> Base:
        found = next((base for base in self._found.bases if base.name == name), None)
        if found is None:
            raise errors.InvalidArguments(f"nobody has told of the image {name}")
        return found

    def _take_file(self, file: Moved, images_here: dict[str, str]) -> None:
        part, final = receiving.part(file, self._paths, self._directory), self._paths.file(file.name)
        if file.base is not None and self._driver._on_disk(files.is_there, part):
            # A qcow2 file that is too long is none: it gets its size first.
            self._driver._on_disk(os.truncate, part, file.size_bytes)
            how = self._how(file.name) if self._is_encrypted(file.name) else images.PLAIN
            base = self._base(file.base)
            receiving.stand_on(part, images_here.get(base.name, ""), base.format, how)
            self._driver._on_disk(receiving.publish, part, final, None, file.mode)
            return
        self._driver._on_disk(receiving.publish, part, final, file.size_bytes, file.mode)

    def _is_encrypted(self, name: str) -> bool:
        return self._driver._on_disk(files.is_there, keys.path(self._paths.uuid, name))

    def _how(self, name: str) -> Making:
        return Making(key=keys.path(self._paths.uuid, name))

    # --- sizes -------------------------------------------------------------------------------------

    def _fit_disks(self) -> None:
        """Give the disks the sizes of the flavor. None shrinks but swap, which holds nothing now."""
        noted = self._driver._on_disk(local_disks.read, self._paths)
        wanted = [
            local_disks.as_made(disk, noted[disk.name]) if disk.name in noted else disk
            for disk in self._maker.wanted()
        ]
        if local_disks.SWAP in noted and local_disks.SWAP not in {disk.name for disk in wanted}:
            self._driver._on_disk(images.remove, self._paths.file(local_disks.SWAP))
        self._driver._on_disk(local_disks.note, self._paths, wanted)
        self._maker.make_keys(disk for disk in wanted if not self._maker.is_made(disk))
        for disk in wanted:
            self._fit(disk)

    def _fit(self, disk: LocalDisk) -> None:
        path = self._paths.file(disk.name)
        if not self._maker.is_made(disk):
            self._maker.make([disk])
        elif disk.role is DiskRole.SWAP:
            if images.info(path, disk.format).virtual_size != disk.size_bytes:
                self._driver._on_disk(images.remove, path)
                self._maker.make([disk])
        elif disk.size_bytes:
            how = self._how(disk.name) if disk.encrypted else images.PLAIN
            images.resize(path, disk.format, disk.size_bytes, how)

    # --- the domain --------------------------------------------------------------------------------

    def _define_here(self) -> None:
        self._define(self._design(self._disks(), self._driver._direct_boot(self._instance)))

    def _disks(self) -> list[GuestDisk]:
        """Return the disks, under the names that the guest knows."""
        wanted = self._own_disks()
        before = self._before()
        return disks.keeping_names(wanted, before) if before is not None else wanted

    def _before(self) -> config.Domain | None:
        """Return the guest as it was at the source, with this host's paths; None where nothing tells."""
        if not self._found.disks:
            return None
        try:
            told = self._manifest()
        except errors.InvalidState:
            return None
        if told.definition is None or told.instances_path is None:
            return None
        to = Destination(address="0.0.0.0", instances_path=self._paths.instances_path, mark="none")
        xml = guestxml.for_destination(told.definition, told.instances_path, to) or told.definition
        return config.Domain.from_xml(xml)

    def _forget(self) -> None:
        self._driver._on_disk(transit.remove, self._directory)

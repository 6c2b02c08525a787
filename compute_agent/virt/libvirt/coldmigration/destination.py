# SPDX-License-Identifier: Apache-2.0
"""Cold migration at the destination: the checks, the files that come, and what is made of them."""

import contextlib
import os
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, NetworkInfo
from compute_agent.virt.images import process, stamp
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt import designer, files, room
from compute_agent.virt.libvirt.coldmigration import aside, details, export, processes, receiving, transit
from compute_agent.virt.libvirt.coldmigration.arrival import Arrival
from compute_agent.virt.libvirt.coldmigration.base import LibvirtColdBase
from compute_agent.virt.libvirt.coldmigration.details import Base, Destination, Details, Moved, Way
from compute_agent.virt.libvirt.coldmigration.receiving import MANIFEST_ROOM, Receiving
from compute_agent.virt.libvirt.disk_making import DiskMaker
from compute_agent.virt.libvirt.migration import checks, storage
from compute_agent.virt.libvirt.volumes import connect as volumes


class LibvirtColdDestination(LibvirtColdBase):
    """The destination's part of the cold migration concern."""

    # --- before --------------------------------------------------------------------------------------

    def check_can_receive_disks(
        self, context: Context, instance: Instance, source_info: Mapping[str, Any]
    ) -> LiveMigrateData:
        """See whether a guest that is off may come; leaves marks by which the source tells shared storage."""
        with checks.refusing():
            process.find("qemu-storage-daemon")
            self._check_kind(source_info)
            self._check_room_for(instance.named())
        data = LiveMigrateData(
            instance_uuid=instance.uuid,
            source_host=str(source_info.get("hypervisor_hostname", "")),
            dest_host=CONF.host_name,
            cold=True,
        )
        here = Destination(
            instances_path=self._instances_path,
            mark=self._on_disk(storage.leave_mark, self._instances_path),
            keys_mark=self._on_disk(self._leave_keys_mark),
            free_bytes=self._on_disk(room.disk, self._instances_path).free,
            aside=self._on_disk(aside.is_there, self._paths(instance)),
        )
        return details.write(data, Details(destination=here))

    def _check_kind(self, source_info: Mapping[str, Any]) -> None:
        """A guest that is off does not mind how old QEMU is, but what it is."""
        told = {key: value for key, value in source_info.items() if key != "hypervisor_version"}
        if told:
            checks.same_kind(told, self.get_available_resource(CONF.host_name))

    # --- the move ------------------------------------------------------------------------------------

    def receive_disks(self, context: Context, instance: Instance, data: LiveMigrateData) -> LiveMigrateData:
        """Open a way for the source to write the files. Repeated, it opens it again for the same files."""
        steps.run(self.receive_disks_steps(instance, data))
        found = details.read(data)
        if not found.disks or data.reverting:
            return data
        noted = self._on_disk(transit.read, transit.incoming(instance.uuid), receiving.NOTE, Receiving)
        if noted is None or noted.port is None:
            raise errors.Internal("the way for the disks was not noted")
        way = Way(
            address=export.address(),
            port=noted.port,
            secret=noted.secret,
            incarnation=noted.incarnation,
            wanted=[file.export for file in noted.files],
        )
        return details.write(data, msgspec.structs.replace(found, way=way))

    def receive_disks_steps(self, instance: Instance, data: LiveMigrateData) -> list[Step]:
        """Return the parts of :meth:`receive_disks`."""
        found = details.read(data)
        if data.reverting:
            return [Step("check", lambda: self._check_goes_back(instance))]
        directory = transit.incoming(instance.uuid)
        promised = self._on_disk(transit.read, directory, receiving.NOTE, Receiving)

        def undo() -> None:
            if promised is None or promised.port is None:  # what was promised is held until it is decided
                self.drop_received(None, instance, data)

        made = [Step("check", lambda: self._check_comes(instance, data), undo=undo)]
        if instance.kernel is not None:
            made.append(Step("kernel", lambda: self._direct_boot(instance)))
        if found.disks:
            if not data.is_shared_instance_path:
                made.append(Step("directory", lambda: self._make_directory(instance)))
            made.append(Step("note", lambda: self._note_receiving(instance, found)))
            made.append(Step("files", lambda: self._make_parts(instance)))
        if instance.block_device_mapping:
            made.append(Step("volumes", lambda: volumes.connect_all(self, instance)))
        if found.disks:
            made.append(Step("open", lambda: self._open(instance)))
        return made

    def _check_goes_back(self, instance: Instance) -> None:
        if self._on_disk(aside.read, self._paths(instance)) is None:
            raise errors.MigrationRefused("nothing of the instance is set aside here: it can't be reverted")

    def _check_comes(self, instance: Instance, data: LiveMigrateData) -> None:
        with checks.refusing():
            if self._on_disk(aside.is_there, self._paths(instance)):
                raise errors.MigrationRefused(
                    "the instance is set aside here", hint="confirm or revert its migration first"
                )
            self._check_absent(instance.named())
            self._check_networks(instance.network_info)
            if data.is_shared_instance_path:
                self._check_storage(instance)
            designer.check(instance.named(), facts=self._facts(), settings=self._settings())

    def _note_receiving(self, instance: Instance, found: Details) -> None:
        directory = transit.incoming(instance.uuid)
        token = steps.current().operation_id or ""
        noted = self._on_disk(transit.read, directory, receiving.NOTE, Receiving)
        if noted is not None and noted.token == token:
            self._on_disk(transit.write_secret, directory, noted.secret)
            return
        self._on_disk(transit.remove, directory)  # of a migration that nobody remembers
        if stray := [file.name for file in found.disks if storage.stays(file.name)]:
            raise errors.InvalidArguments(f"files that do not go along: {', '.join(stray)}")
        images, sent_along = self._images_for(instance, found)
        made = Receiving(
            token=token,
            secret=transit.new_secret(),
            incarnation=uuid.uuid4().hex,
            files=[*found.disks, *sent_along],
            images=images,
        )
        self._on_disk(transit.write_secret, directory, made.secret)
        self._on_disk(transit.keep, directory, receiving.NOTE, made)

    def _images_for(self, instance: Instance, found: Details) -> tuple[dict[str, str], list[Moved]]:
        """Return where the images are that the disks stand on, and those that have to be sent along."""
        here, missing = {}, []
        cache = self._images.directory
        for base in found.bases:
            path = self._fetched(instance, base) or os.path.join(cache, base.name)
            known = self._on_disk(stamp.read, path)
            if known is not None and _is_same(known, base):
                here[base.name] = path
            else:
                missing.append(base.as_file())
        return here, missing

    def _fetched(self, instance: Instance, base: Base) -> str | None:
        """Return where this host has the image, or has fetched it; None if it can't be had."""
        for disk in DiskMaker(self, instance.named(), self._paths(instance)).wanted():
            if disk.image is not None:
                with contextlib.suppress(
                    errors.ImageUnavailable, errors.ImageChecksumMismatch, errors.ImageUnsafe
                ):
                    found = self._images.ensure(disk.image)
                    if found.sha256 == base.sha256:
                        return found.path
        return None

    def _make_parts(self, instance: Instance) -> None:
        directory, paths = transit.incoming(instance.uuid), self._paths(instance)
        noted = self._on_disk(transit.read, directory, receiving.NOTE, Receiving)
        assert noted is not None
        rooms = {file.export: file.room_bytes for file in noted.files}
        for name, path in noted.parts(paths, directory).items():
            self._on_disk(receiving.make_part, path, rooms.get(name, MANIFEST_ROOM))

    def _open(self, instance: Instance) -> None:
        directory = transit.incoming(instance.uuid)
        noted = self._on_disk(transit.read, directory, receiving.NOTE, Receiving)
        assert noted is not None
        if noted.port is not None and self._on_disk(export.is_up, directory):
            return
        # Before it is noted, a program of an earlier attempt may serve at a port that nobody knows.
        self._on_disk(processes.end, directory)
        parts = noted.parts(self._paths(instance), directory)
        port = export.start(directory, export.address(), parts, noted.port)
        self._on_disk(transit.keep, directory, receiving.NOTE, msgspec.structs.replace(noted, port=port))

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
        """Make the guest from the files that came."""
        steps.run(
            self.finish_migration_steps(
                context,
                migration,
                instance,
                disk_info,
                network_info,
                image_meta,
                resize_instance,
                block_device_info,
                power_on,
            )
        )

    def finish_migration_steps(
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
    ) -> list[Step]:
        """Return the parts of :meth:`finish_migration`."""
        data = migration["data"] if isinstance(migration, Mapping) else migration.data
        found = details.read(msgspec.convert(data, LiveMigrateData))
        vifs = list(network_info or ())
        return Arrival(self, instance, vifs, found, resize=resize_instance, power_on=power_on).steps()

    def drop_received(self, context: Context, instance: Instance, data: LiveMigrateData) -> None:
        """Remove what came, and what was made for it. What is set aside here is none of that."""
        if data.reverting:
            return
        if self._power_state(instance.uuid) is not None:
            raise errors.InvalidState("the guest is here: it was taken over")
        self._on_disk(transit.remove, transit.incoming(instance.uuid))
        volumes.disconnect_all(self, instance)
        paths = self._paths(instance)
        if not data.is_shared_instance_path and self._is_made_for_this(paths):
            self._on_disk(files.remove_directory, paths)


def _is_same(known: stamp.Stamp, base: Base) -> bool:
    """Whether an image of this host has the contents that a disk was made on."""
    return known.sha256 == base.sha256 and (
        known.contents_sha256 == base.file_sha256 or known.virtual_size == base.virtual_size
    )

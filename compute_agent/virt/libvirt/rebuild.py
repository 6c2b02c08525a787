# SPDX-License-Identifier: Apache-2.0
"""Rebuild: an instance is made anew from another image, and stays who it is.

Uuid, name, interfaces (address and tap) and volumes stay; root, config drive and, if they are not to be
preserved, ephemeral disks and swap are made anew. All of it is made beside the old files first, so that an
image that is bad, or does not fit, leaves the guest untouched; then the guest ends, the files are switched,
and it starts again. The old files go last: until then all can be put back as it was.

A file that is made is ``<name>.rebuild``, then it has its name, and the old one is ``<name>.before``: which
of them are there tells an interrupted work how far it came.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from compute_agent import steps
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.steps import Step
from compute_agent.virt import configdrive as drives
from compute_agent.virt.contract.base import BlockDeviceInfo, Context, InjectedFiles, NetworkInfo
from compute_agent.virt.images import disks as image_disks
from compute_agent.virt.images.part import disk_error, sync_directory
from compute_agent.virt.libvirt import (
    config,
    configdrive,
    designer,
    disks,
    fencing,
    files,
    local_disks,
    rescue,
)
from compute_agent.virt.libvirt.designer import DiskRole
from compute_agent.virt.libvirt.disk_making import DiskMaker
from compute_agent.virt.libvirt.evacuation import Evacuation
from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle
from compute_agent.virt.libvirt.local_disks import LocalDisk
from compute_agent.virt.libvirt.renewal import Renewal
from compute_agent.virt.libvirt.spawn import Spawn

LOG = logging.getLogger(__name__)

NOTE = "rebuild"
NEW, OLD = ".rebuild", ".before"
_BLANK = frozenset({DiskRole.EPHEMERAL, DiskRole.SWAP})


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A rebuild under way, or the last one.

    :param boot_id: of the host, when it began
    :param names: the files that it makes anew
    :param old: those of them that were there before
    :param ran: whether the guest was up
    :param definition: the domain's, before; None: there was none
    :param committed: it is done: nothing is put back any more
    """

    operation_id: str
    boot_id: str
    names: list[str]
    old: list[str]
    ran: bool = False
    definition: str | None = None
    committed: bool = False


class Rebuild(Renewal):
    """One rebuild.

    :param instance: as it is to be, with the new image
    :param preserve: ephemeral disks and swap stay as they are
    """

    def __init__(
        self,
        driver: LibvirtLifecycle,
        instance: Instance,
        vifs: NetworkInfo,
        *,
        admin_password: str | None = None,
        injected_files: InjectedFiles = None,
        preserve: bool = False,
    ) -> None:
        super().__init__(driver, instance, vifs or ())
        self._preserve = preserve
        self._maker = DiskMaker(driver, self._instance, self._paths)
        self._given = drives.Given(
            instance=self._instance,
            vifs=self._vifs,
            admin_password=admin_password,
            injected_files=injected_files or (),
        )

    def steps(self) -> list[Step]:
        """Return the parts."""
        return [
            Step("check", self._check, self._begun),
            Step("image", self._fetch, self._has_disks, detail=self._image_detail),
            Step("note", self._note, self._is_noted, self._while_undone(self._drop_note)),
            Step("disks", self._make_disks, self._has_disks, self._while_undone(self._drop_new)),
            Step("config_drive", self._make_drive, self._has_drive),
            Step("stop", self._end_old, self._is_defined, self._while_undone(self._run_again)),
            Step("switch", self._switch, self._is_switched, self._while_undone(self._switch_back)),
            Step("define", self._define_new, self._is_defined, self._while_undone(self._define_old)),
            Step("start", self._start_new, self._is_started, self._while_undone(self._end_new)),
            Step("old", self._commit, self._has_committed),
        ]

    def _while_undone(self, undo: Callable[[], object]) -> Callable[[], object]:
        """Return ``undo``, which does nothing before this work has begun and once it is done."""

        def guarded() -> None:
            if self._begun() and not self._committed():
                undo()

        return guarded

    # --- before anything is touched ------------------------------------------------------------------

    def _check(self) -> None:
        if self._definition() is None and not self._driver._on_disk(files.is_there, self._paths.owner):
            raise errors.InstanceNotFound("neither a domain nor files of the instance are here")
        self._check_own()
        if local_disks.boots_from_volume(self._instance):
            raise errors.UnsupportedOperation(
                "the instance boots from a volume: its root can't be made anew from an image",
                hint="write the image to the volume, or spawn another instance",
            )
        self._driver._on_disk(drives.check, self._given)
        self._maker.check()
        designer.check(self._instance, facts=self._driver._facts(), settings=self._driver._settings())

    def _fetch(self) -> None:
        self._maker.fetch(disk for disk in self._maker.wanted() if self._is_renewed(disk))
        self._driver._direct_boot(self._instance)

    def _image_detail(self) -> Mapping[str, Any]:
        return self._maker.fetch_detail(disk for disk in self._maker.wanted() if self._is_renewed(disk))

    def _is_renewed(self, disk: LocalDisk) -> bool:
        """Whether a disk is made anew. Copies of further images are data, as volumes are."""
        return disk.role is DiskRole.ROOT or (disk.role in _BLANK and not self._preserve)

    # --- the note ------------------------------------------------------------------------------------

    def _read(self) -> Note | None:
        """Return the note of this very work."""
        note = self._driver._on_disk(files.read_note, self._paths, NOTE, Note)
        return note if note is not None and note.operation_id == self._token else None

    def _begun(self) -> bool:
        return self._read() is not None

    def _is_noted(self) -> bool:
        """Whether it has begun, and what was written since can be relied on."""
        note = self._read()
        return note is not None and (note.committed or note.boot_id == fencing.boot_id())

    def _committed(self) -> bool:
        note = self._read()
        return note is not None and note.committed

    def _known(self) -> Note:
        note = self._read()
        assert note is not None
        return note

    def _note(self) -> None:
        self._driver._on_disk(self._write_note, self._definition(), self._is_up())

    def _write_note(self, definition: str | None, ran: bool) -> None:
        """In a native thread. What an earlier rebuild could not undo is undone first.

        So is what this one did before the host went down: what was not written then looks finished.
        """
        previous = files.read_note(self._paths, NOTE, Note)
        if previous is not None and not previous.committed:
            self._restore(previous)
            self._remove(NEW, previous.names)
            if self._made_by_us(definition):
                definition = previous.definition
        names = self._names()
        old = [name for name in names if files.is_there(self._paths.file(name))]
        note = Note(
            operation_id=self._token,
            boot_id=fencing.boot_id(),
            names=names,
            old=old,
            ran=ran,
            definition=definition,
        )
        files.write_note(self._paths, NOTE, note)

    def _names(self) -> list[str]:
        """Return the files to be made anew."""
        made = [
            disk.name for disk in self._maker.wanted() if self._is_renewed(disk) or self._is_missing(disk)
        ]
        wants_drive = drives.is_wanted(self._given) or files.is_there(self._paths.config_drive)
        return [*made, local_disks.NOTE, self._drive] if wants_drive else [*made, local_disks.NOTE]

    def _is_missing(self, disk: LocalDisk) -> bool:
        return not files.is_there(self._paths.file(disk.name))

    def _drop_note(self) -> None:
        """What could not be put back stays noted: the next rebuild does that first."""
        if any(self._is_there(name, OLD) for name in self._known().names):
            return
        self._driver._on_disk(files.drop_note, self._paths, NOTE)

    # --- the files -----------------------------------------------------------------------------------

    def _to_make(self) -> list[LocalDisk]:
        names = self._known().names
        return [disk for disk in self._maker.wanted() if disk.name in names]

    def _is_there(self, name: str, ending: str = "") -> bool:
        return self._driver._on_disk(files.is_there, self._paths.file(name + ending))

    def _has_new(self, name: str) -> bool:
        """Whether a file has been made anew, be it in its place or not yet."""
        return self._is_there(name, NEW) or self._has_switched(name)

    def _has_switched(self, name: str) -> bool:
        if name in self._known().old:
            return self._is_there(name, OLD) and not self._is_there(name, NEW)
        return self._is_there(name) and not self._is_there(name, NEW)

    def _has_disks(self) -> bool:
        """Whether all disks are made. The note of what they are comes last."""
        return self._committed() or (self._begun() and self._has_new(local_disks.NOTE))

    def _make_disks(self) -> None:
        wanted = self._to_make()
        self._maker.make_keys(wanted)
        for disk in wanted:
            if not self._has_new(disk.name):
                self._maker.make_at(disk, self._paths.file(disk.name + NEW))
        self._driver._on_disk(self._note_disks, self._known())

    def _note_disks(self, note: Note) -> None:
        """Note what the disks are, those included that are kept. In a native thread."""
        before = local_disks.read(self._paths)
        made = {
            disk.name: local_disks.Made(format=disk.format, encrypted=disk.encrypted)
            for disk in self._maker.wanted()
        }
        kept = {name: found for name, found in before.items() if name not in note.names}
        files.write_note(self._paths, local_disks.NOTE + NEW, local_disks.Note(disks=made | kept))

    @property
    def _drive(self) -> str:
        return os.path.basename(self._paths.config_drive)

    def _make_drive(self) -> None:
        if self._drive in self._known().names:
            given = self._driver._on_disk(configdrive.recalled, self._given, self._paths)
            self._driver._on_disk(configdrive.make, given, self._paths.file(self._drive + NEW))

    def _has_drive(self) -> bool:
        known = self._known()
        return known.committed or self._drive not in known.names or self._has_new(self._drive)

    def _drop_new(self) -> None:
        self._driver._on_disk(self._remove, NEW, self._known().names)

    def _remove(self, ending: str, names: Sequence[str]) -> None:
        """In a native thread."""
        try:
            for name in names:
                image_disks.remove(self._paths.file(name + ending))
        except OSError as error:
            raise disk_error(error, self._paths.directory) from None

    # --- the switch ----------------------------------------------------------------------------------

    def _switch(self) -> None:
        self._driver._on_disk(self._switch_files, self._known())

    def _switch_files(self, note: Note) -> None:
        """In a native thread. The old files stay until the new guest runs."""
        try:
            for name in note.names:
                path = self._paths.file(name)
                if files.is_there(path + NEW):
                    if name in note.old and files.is_there(path):
                        os.rename(path, path + OLD)
                    os.rename(path + NEW, path)
            sync_directory(self._paths.directory)
        except OSError as error:
            raise disk_error(error, self._paths.directory) from None

    def _is_switched(self) -> bool:
        known = self._known()
        return known.committed or all(self._has_switched(name) for name in known.names)

    def _switch_back(self) -> None:
        self._driver._on_disk(self._restore, self._known())

    def _restore(self, note: Note) -> None:
        """Give the old files their names again. In a native thread."""
        try:
            for name in note.names:
                path = self._paths.file(name)
                if files.is_there(path + OLD):
                    os.rename(path + OLD, path)
                elif name not in note.old and files.is_there(path):
                    os.unlink(path)
            sync_directory(self._paths.directory)
        except OSError as error:
            raise disk_error(error, self._paths.directory) from None

    # --- the guest -----------------------------------------------------------------------------------

    def _is_defined(self) -> bool:
        return self._committed() or self._made_by_us(self._definition())

    def _end_old(self) -> None:
        if self._definition() is not None:
            self._end()

    def _run_again(self) -> None:
        if self._known().ran and not (self._is_up() or self._made_by_us(self._definition())):
            self._start()

    def _define_new(self) -> None:
        before, own = self._known().definition, self._own_disks()
        if before is not None:
            own = disks.keeping_names(own, config.Domain.from_xml(before))
        self._define(self._design(own, self._driver._direct_boot(self._instance)))

    def _define_old(self) -> None:
        if not self._made_by_us(self._definition()):
            return
        before = self._known().definition
        if before is None:
            self._driver._undefine(self._uuid)
        else:
            self._define(before)

    def _start_new(self) -> None:
        self._start(self._instance.start_paused)

    def _is_started(self) -> bool:
        return self._committed() or self._is_up()

    def _end_new(self) -> None:
        if self._made_by_us(self._definition()):
            self._end()

    # --- the end -------------------------------------------------------------------------------------

    def _commit(self) -> None:
        self._driver._on_disk(self._drop_old, self._known())

    def _drop_old(self, note: Note) -> None:
        """In a native thread. From the first line on nothing is put back."""
        done = msgspec.structs.replace(note, definition=None, committed=True)
        files.write_note(self._paths, NOTE, done)
        self._remove(OLD, note.names)
        rescue.drop_files(self._paths)

    def _has_committed(self) -> bool:
        return self._committed() and not any(self._is_there(name, OLD) for name in self._known().names)


class LibvirtRebuild(LibvirtLifecycle):
    """Rebuild, of the lifecycle concern."""

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
        """Make a guest anew from another image. Undone altogether if it fails before the new one runs.

        With ``recreate`` it comes from a host that is off: without an image and with ``preserve_ephemeral``,
        on the disks that are there.
        """
        if detach_block_devices is not None:
            detach_block_devices(context, bdms)
        if attach_block_devices is not None:
            attach_block_devices(context, instance, bdms)
        if recreate:
            extras = {
                "injected_files": injected_files,
                "admin_password": admin_password,
                "block_device_info": block_device_info,
            }
            reuse = image_meta is None and preserve_ephemeral
            kind, image = (Evacuation, instance.image) if reuse else (Spawn, image_meta)
            steps.run(kind(self, instance, image, list(network_info or ()), extras).steps())
            return
        work = Rebuild(
            self,
            msgspec.structs.replace(instance, image=image_meta),
            network_info,
            admin_password=admin_password,
            injected_files=injected_files,
            preserve=preserve_ephemeral,
        )
        steps.run(work.steps())

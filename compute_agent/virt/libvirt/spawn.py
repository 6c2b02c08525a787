# SPDX-License-Identifier: Apache-2.0
"""One spawn: from an image to a running guest, or to nothing at all.

The work's token (the operation's id) stands in the directory's note and in the domain's
description, so that after a crash at any instant the next attempt tells its own
half-finished work from somebody else's instance. Only what carries the token is ever undone.

The first step undoes everything, since an attempt that goes on after a crash may fail before it
has walked as far as the one before.
"""

import functools
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import libvirt

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.model.instance import Instance
from compute_agent.model.states import PowerState
from compute_agent.model.vif import Vif
from compute_agent.steps import Step
from compute_agent.virt.images import disks
from compute_agent.virt.images.cache import CachedImage
from compute_agent.virt.libvirt import admission, designer, files, guest, metadata, networks, room
from compute_agent.virt.libvirt.designer import DirectBoot, DiskRole, GuestDisk

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.lifecycle import LibvirtLifecycle

LOG = logging.getLogger(__name__)

GIB = 2**30
MIB = 2**20
DIRECT = "direct:"
"""What tokens begin with where no operation runs."""


class Spawn:
    """One spawn.

    :param extras: further arguments of the member by name, refused where this release can't honour them
    """

    def __init__(
        self,
        driver: "LibvirtLifecycle",
        instance: Instance,
        image: Image | None,
        vifs: list[Vif],
        extras: Mapping[str, Any],
    ) -> None:
        self._driver = driver
        self._instance = instance.named()
        self._image = image
        self._vifs = vifs
        self._extras = extras
        self._paths = driver._paths(instance)
        self._uuid = instance.uuid
        self._cached: CachedImage | None = None

    def steps(self) -> list[Step]:
        """Return the parts."""
        made = [Step("check", self._check, self._begun, self._leave_nothing, self._check_detail)]
        if self._image is not None:
            made.append(Step("image", self._fetch, detail=self._image_detail))
        if self._instance.kernel is not None:
            made.append(Step("kernel", self._fetch_kernel))
        made.append(Step("directory", self._make_directory, self._has_directory, self._drop_directory))
        if self._image is not None:
            made.append(Step("disk", self._make_disk, self._has_disk))
        if self._blank_disks():
            made.append(Step("blank_disks", self._make_blank_disks))
        made.append(Step("define", self._define, self._is_defined, self._undefine, self._define_detail))
        made.append(Step("start", self._start, self._is_started, self._stop))
        return made

    @functools.cached_property
    def _token(self) -> str:
        return steps.current().operation_id or f"{DIRECT}{uuid.uuid4().hex}"

    # --- check -------------------------------------------------------------------------------------

    def _check(self) -> None:
        for check in self._checks():
            check()

    def _checks(self) -> list[Callable[[], object]]:
        driver = self._driver
        return [
            lambda: admission.refuse_what_is_to_come(self._instance, self._extras),
            lambda: designer.check(self._instance, facts=driver._facts(), settings=driver._settings()),
            lambda: driver._on_disk(self._check_host, driver._facts().cpus),
            self._check_unused,
        ]

    def _check_host(self, cpus: int) -> None:
        """In a native thread."""
        networks.check(self._vifs)
        room.check(self._instance.flavor, cpus, self._paths.instances_path)

    def _check_unused(self) -> None:
        taken = self._driver._host.ask(admission.who_has, self._uuid, self._instance.name)
        if taken is not None:
            raise errors.InstanceExists(f"the hypervisor has a domain of that {taken}")
        if not self._driver._on_disk(files.is_free, self._paths):
            raise errors.InstanceExists(
                f"files of the instance are here already: {self._paths.directory}",
                hint="destroy removes them",
            )

    def _begun(self) -> bool:
        """Whether an attempt of this operation got past the checks."""
        return steps.current().resumed and (self._has_directory() or self._is_defined())

    def _check_detail(self) -> Mapping[str, Any]:
        return {"problems": [problem for check in self._checks() for problem in _problems_of(check)]}

    # --- files -------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        assert self._image is not None
        self._cached = self._driver._images.ensure(self._image)

    def _image_detail(self) -> Mapping[str, Any]:
        image = self._image
        assert image is not None
        try:
            cached = self._driver._images.cached(image)
        except errors.ComputeError as error:
            return {"problems": [error.to_error()]}
        return {"bytes": 0 if cached else image.size_bytes, "cached": cached is not None}

    def _fetch_kernel(self) -> None:
        self._boot()

    def _boot(self) -> DirectBoot | None:
        """Return the files of a direct boot, fetched if they are not here."""
        instance = self._instance
        if instance.kernel is None:
            return None
        ramdisk = instance.ramdisk and self._driver._images.ensure_file(instance.ramdisk)
        kernel = self._driver._images.ensure_file(instance.kernel)
        return DirectBoot(kernel=kernel, ramdisk=ramdisk or None, cmdline=instance.cmdline)

    def _make_directory(self) -> None:
        owner = files.Owner(
            host=CONF.host_name, generation=self._instance.generation, operation_id=self._token
        )
        self._driver._on_disk(files.make_directory, self._paths, owner)

    def _has_directory(self) -> bool:
        owner = self._driver._on_disk(files.read_owner, self._paths)
        return owner is not None and owner.operation_id == self._token

    def _make_disk(self) -> None:
        assert self._image is not None
        cached = self._cached or self._driver._images.ensure(self._image)
        size = disks.root_size(self._instance.flavor.root_gb, cached.virtual_size, self._image.min_disk_gb)
        if _disk_format() == "qcow2":
            disks.create_overlay(self._paths.disk, cached.path, cached.format, size)
        else:
            disks.create_copy(self._paths.disk, cached.path, cached.format, size, "raw")

    def _has_disk(self) -> bool:
        return self._driver._on_disk(files.is_there, self._paths.disk)

    def _blank_disks(self) -> list[tuple[GuestDisk, int]]:
        """Return the blank disks that the flavor asks for, and their sizes in bytes."""
        flavor, made = self._instance.flavor, []
        if flavor.ephemeral_gb:
            disk = GuestDisk(source=self._paths.ephemeral(0), format="qcow2", role=DiskRole.EPHEMERAL)
            made.append((disk, flavor.ephemeral_gb * GIB))
        if flavor.swap_mb:
            disk = GuestDisk(source=self._paths.swap, format="raw", role=DiskRole.SWAP)
            made.append((disk, flavor.swap_mb * MIB))
        return made

    def _make_blank_disks(self) -> None:
        for disk, size in self._blank_disks():
            if not self._driver._on_disk(files.is_there, disk.source):
                disks.create_blank(disk.source, size, disk.format)

    def _drop_directory(self) -> None:
        if self._has_directory():
            self._driver._on_disk(files.remove_directory, self._paths)

    # --- the domain --------------------------------------------------------------------------------

    def _define(self) -> None:
        xml = self._design(self._boot(), self._token)
        try:
            self._driver._host.act(_define, xml)
        except errors.HypervisorError:
            self._raise_if_taken()
            raise

    def _raise_if_taken(self) -> None:
        """Somebody may have defined a domain of that name since it was checked."""
        taken = self._driver._host.ask(admission.who_has, self._uuid, self._instance.name)
        if taken is not None and not self._is_defined():
            raise errors.InstanceExists(f"the hypervisor has a domain of that {taken}") from None

    def _design(self, boot: DirectBoot | None, operation_id: str | None) -> str:
        domain = designer.design(
            self._instance,
            facts=self._driver._facts(),
            settings=self._driver._settings(),
            paths=self._paths,
            disks=self._guest_disks(),
            vifs=self._vifs,
            boot=boot,
            operation_id=operation_id,
        )
        return domain.to_xml()

    def _guest_disks(self) -> list[GuestDisk]:
        made = [disk for disk, _ in self._blank_disks()]
        if self._image is not None:
            root = GuestDisk(
                source=self._paths.disk,
                format=_disk_format(),
                role=DiskRole.ROOT,
                target=self._instance.root_device_name,
            )
            made.insert(0, root)
        return made

    def _define_detail(self) -> Mapping[str, Any]:
        instance = self._instance
        boot = None
        if instance.kernel is not None:
            # Where they will lie is known when they have been fetched; a plan shows where they come from.
            boot = DirectBoot(kernel=instance.kernel, ramdisk=instance.ramdisk, cmdline=instance.cmdline)
        try:
            return {"domain_xml": self._design(boot, steps.current().operation_id)}
        except errors.ComputeError:
            return {}  # the checks tell why

    def _is_defined(self) -> bool:
        """Whether our domain is there: one that this very operation made."""
        try:
            xml = self._driver._host.ask_guest(self._uuid, guest.definition)
        except errors.InstanceNotFound:
            return False
        found = metadata.read(xml)
        return found is not None and found.operation_id == self._token

    def _undefine(self) -> None:
        if self._is_defined():
            self._driver._undefine(self._uuid)

    def _start(self) -> None:
        try:
            self._driver._start(self._instance, self._instance.start_paused)
        except errors.HypervisorError as error:
            raise self._driver._with_last_words(error, self._instance) from error

    def _is_started(self) -> bool:
        return self._driver._power_state(self._uuid) in (PowerState.RUNNING, PowerState.PAUSED)

    def _stop(self) -> None:
        if self._is_defined():
            self._driver._stop(self._uuid)

    def _leave_nothing(self) -> None:
        self._stop()
        self._undefine()
        self._drop_directory()


def _problems_of(check: Callable[[], object]) -> list[errors.Error]:
    try:
        check()
    except errors.ComputeError as error:
        return [error.to_error()]
    return []


def _disk_format() -> str:
    return "qcow2" if CONF.libvirt.images_type == "qcow2" else "raw"


def _define(connection: libvirt.virConnect, xml: str) -> None:
    connection.defineXML(xml)

# SPDX-License-Identifier: Apache-2.0
"""One snapshot: a copy of an instance's root disk, brought to where a destination says.

The copy is made beside the disk, as a whole file that stands on nothing (:mod:`copies`): by QEMU itself
while the guest runs, by qemu-img while it does not. What was made is inspected, as any image is, since
a guest may have taken its QEMU over. Then it is brought to its destination, and hashed on the way. All that
is left on the way is found again by its name, or in the domain: the first step's *undo* is the clean-up
after a crash, too.
"""

import contextlib
import functools
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import libvirt
import msgspec

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import DiskFormat
from compute_agent.model.instance import Instance
from compute_agent.model.secrets import public
from compute_agent.model.states import PowerState
from compute_agent.steps import Step
from compute_agent.virt.images import deliver, inspection, qemu_img, standing
from compute_agent.virt.images.deliver import Delivery, Identity
from compute_agent.virt.images.sources import Source
from compute_agent.virt.images.upload import Upload
from compute_agent.virt.images.web import Target
from compute_agent.virt.libvirt import copies, fencing, files, guestagent, mirror
from compute_agent.virt.libvirt.blockjobs import JobState, Watch
from compute_agent.virt.libvirt.mirror import OwnDisk
from compute_agent.virt.libvirt.properties import Properties

if TYPE_CHECKING:
    from compute_agent.virt.libvirt.snapshots import LibvirtSnapshots

LOG = logging.getLogger(__name__)

PENDING, UPLOADING = "image_pending_upload", "image_uploading"
FORMATS = ("qcow2", "raw")
NOTE = "snapshot"
CHUNK_BYTES = 4 * 2**20
END_TOLD_S = 3.0
"""How long libvirt may take to tell whether the end of a copy went well; it has come to its end by then."""
_UP = frozenset({PowerState.RUNNING, PowerState.PAUSED})
_YES = frozenset({"yes", "true", "1", "on", "y", "t"})


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """Which file an operation has brought to its destination."""

    operation_id: str
    identity: Identity


class Snapshot:
    """One snapshot.

    :param destination: its ``url``, ``format`` and ``headers``
    """

    def __init__(
        self, driver: "LibvirtSnapshots", instance: Instance, destination: Any, tell: Callable[..., Any]
    ) -> None:
        self._driver = driver
        self._instance = instance
        self._uuid = instance.uuid
        self._paths = driver._paths(instance)
        self._url = str(getattr(destination, "url", destination))
        self._format = str(getattr(destination, "format", "qcow2"))
        self._headers: Mapping[str, str] = getattr(destination, "headers", {})
        self._tell = tell
        self._told: dict[str, Any] = {}

    def steps(self) -> list[Step]:
        """Return the parts. The first one's *undo* takes everything back."""
        return [
            Step("check", self._check, undo=self._leave_nothing),
            Step("copy", self._copy),
            Step("deliver", self._deliver),
            Step("clean", self._remove_copies),
        ]

    def result(self) -> dict[str, Any]:
        """Return what was made."""
        return {"url": public(self._url), "format": self._format, **self._told}

    @functools.cached_property
    def _token(self) -> str:
        return steps.current().operation_id or uuid.uuid4().hex

    @functools.cached_property
    def _copied(self) -> str:
        """Where the copy is made: a new name each time, since a killed agent's qemu-img goes on writing."""
        return self._paths.file(copies.new_name())

    # --- check -------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._format not in FORMATS:
            raise errors.InvalidArguments(f"format {self._format[:64]}: expected {' or '.join(FORMATS)}")
        destination = self._driver._on_disk(deliver.allow, self._url)
        if destination.scheme == "file":
            self._driver._on_disk(Delivery(destination, self._token).check)
        self._driver._on_disk(fencing.check, self._paths, self._instance.generation)
        self._driver._on_disk(self._check_room, self._look().format)
        if self._required:
            self._check_quiesce()
        self._leave_nothing()

    def _look(self) -> OwnDisk:
        """Find the disk to copy.

        :raises InvalidState: if the instance has none of its own
        :raises UnsupportedOperation: if it is encrypted
        """
        disk = self._driver._host.ask_guest(self._uuid, mirror.disk_of, self._paths.disk)
        if disk is None:
            raise errors.InvalidState("the instance has no root disk of its own to copy")
        if disk.encrypted:
            raise errors.UnsupportedOperation("the root disk is encrypted: its copy would not be")
        return disk

    def _check_room(self, disk_format: str) -> None:
        """In a native thread."""
        base = standing.check(self._paths.disk, disk_format, self._driver._images.directory)
        needed = sum(os.stat(path).st_blocks * 512 for path in (self._paths.disk, base) if path)
        free = qemu_img.free_bytes(self._paths.disk)
        if needed > free:
            raise errors.DiskFull(f"a copy of the disk takes {needed} bytes, {free} are free beside it")

    def _check_quiesce(self) -> None:
        state = self._driver._power_state(self._uuid)
        if state in (PowerState.PAUSED, PowerState.SUSPENDED):
            raise errors.QuiesceNotSupported(
                "os_require_quiesce is set, and a guest that is paused or suspended can't be quiesced"
            )
        if state is PowerState.RUNNING:
            self._driver._host.ask_guest(self._uuid, guestagent.check)

    @property
    def _required(self) -> bool:
        """Whether a guest that runs has to be quiesced."""
        image = self._instance.image
        told = image.properties.get("os_require_quiesce", "") if image is not None else ""
        return told.strip().lower() in _YES

    # --- copy --------------------------------------------------------------------------------------

    def _copy(self) -> None:
        self._tell(task_state=PENDING)
        disk = self._look()
        up = self._driver._power_state(self._uuid) in _UP
        if not (up and self._copy_live(disk)):
            self._copy_cold(disk)
        self._driver._on_disk(self._inspect)

    def _copy_live(self, disk: OwnDisk) -> bool:
        """Let QEMU copy the disk; return False if the guest went off meanwhile."""
        try:
            with self._driver._block_jobs.watching(self._uuid, disk.target) as watch:
                self._mirror(disk, watch)
        except errors.ComputeError:
            if steps.current().cancel_requested.is_set() or not self._driver._is_off(self._uuid):
                raise
            LOG.info("instance %s went off while its disk was copied: it is copied anew", self._uuid)
            self._remove_copies()
            return False
        return True

    def _mirror(self, disk: OwnDisk, watch: Watch) -> None:
        bandwidth = CONF.libvirt.snapshot_bandwidth_mb
        self._act(mirror.start, disk.target, self._copied, self._format, bandwidth)
        failpoints.hit("snapshot.mirroring")
        if watch.wait(frozenset({JobState.READY})).state is JobState.NONE:
            raise self._lost()
        self._told["quiesced"] = self._end_quiesced(disk)
        if watch.told_end(END_TOLD_S) == libvirt.VIR_DOMAIN_BLOCK_JOB_FAILED:
            raise self._lost()

    def _act(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._driver._host.act_guest(self._uuid, function, *args)

    def _lost(self) -> errors.ComputeError:
        """Return why QEMU may have given up."""
        if qemu_img.free_bytes(self._copied) < qemu_img.FULL_BELOW_BYTES:
            return errors.DiskFull(f"no room for a copy of the disk at {self._paths.directory}")
        return errors.HypervisorError(
            "QEMU has given up copying the disk", hint="QEMU's log in /var/log/libvirt/qemu says why"
        )

    def _end_quiesced(self, disk: OwnDisk) -> bool:
        """End the copy, if it is wished on a frozen guest; return whether it was frozen."""
        if not (self._required or self._has_agent()):
            self._end(disk)
            return False
        try:
            self._driver._freezer.freeze(self._uuid, float(CONF.libvirt.freeze_limit))
        except (errors.QuiesceNotSupported, errors.GuestAgentUnavailable, errors.InvalidState) as error:
            if self._required:
                raise
            LOG.warning("the snapshot of %s is not quiesced: %s", self._uuid, error.message)
            self._end(disk)
            return False
        try:
            failpoints.hit("snapshot.frozen")
            self._end(disk)
        finally:
            self._driver._freezer.thaw_surely(self._uuid)
        return True

    def _end(self, disk: OwnDisk) -> None:
        self._act(mirror.end, disk.target, self._copied)

    def _has_agent(self) -> bool:
        running = self._driver._power_state(self._uuid) is PowerState.RUNNING
        return running and bool(Properties.of(self._instance).guest_agent)

    def _copy_cold(self, disk: OwnDisk) -> None:
        """Let qemu-img copy the disk of a guest that is off. It locks the disk: nothing starts meanwhile."""
        self._driver._on_disk(standing.check, self._paths.disk, disk.format, self._driver._images.directory)
        arguments = ["convert", "-q", "-t", "writeback", "-f", disk.format, "-O", self._format]
        with self._telling_progress():
            qemu_img.run([*arguments, "--", self._paths.disk, self._copied], writes=self._copied)
        self._told["quiesced"] = False

    @contextlib.contextmanager
    def _telling_progress(self) -> Iterator[None]:
        """Tell how large the copy is while it grows."""
        over = concurrency.Event()

        def tell() -> None:
            while not over.wait(1.0):
                with contextlib.suppress(OSError):
                    steps.current().report(self._driver._file_threads.call(copies.allocated, self._copied))

        concurrency.spawn(tell)
        try:
            yield
        finally:
            over.set()

    def _inspect(self) -> None:
        """Look into what QEMU made, which a guest may have taken over. In a native thread."""
        with self._opened() as (fd, size):
            if self._format == "qcow2":
                found = inspection.inspect(fd, DiskFormat.QCOW2, max_virtual_size=2**63 - 1)
                size = found.virtual_size
        self._told["virtual_size_bytes"] = size

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[int, int]]:
        try:
            with files.plain_file(self._copied) as opened:
                yield opened
        except OSError as error:
            raise errors.HypervisorError(f"the disk's copy can't be read: {error.strerror}") from None

    # --- deliver -----------------------------------------------------------------------------------

    def _deliver(self) -> None:
        self._tell(task_state=UPLOADING, expected_state=PENDING)
        destination = self._driver._on_disk(deliver.allow, self._url)
        call = self._driver._file_threads.call
        with contextlib.ExitStack() as stack:
            fd, size = call(stack.enter_context, self._opened())
            if destination.scheme == "file":
                digest = self._put_file(destination, fd, size)
            else:
                target = Target(url=self._url, headers=self._headers, inner=destination.inner)
                digest = Upload(target, fd, size, call).run()
        self._told |= {"size_bytes": size, "checksum": f"sha256:{digest}"}

    def _put_file(self, destination: Source, fd: int, size: int) -> str:
        work, call = steps.current(), self._driver._file_threads.call
        delivery = Delivery(destination, self._token)
        call(delivery.check, call(copies.allocated, fd))
        try:
            call(delivery.begin)
            while call(delivery.copy, fd, CHUNK_BYTES):
                failpoints.hit("snapshot.delivering")
                work.report(delivery.size, size)
                work.check()
            note = Delivered(operation_id=self._token, identity=call(delivery.complete))
            call(files.write_note, self._paths, NOTE, note)
            return str(call(delivery.publish))
        finally:
            call(delivery.close)

    # --- clean -------------------------------------------------------------------------------------

    def _remove_copies(self) -> None:
        copies.remove(self._driver, self._instance)

    def _leave_nothing(self) -> None:
        copies.clear(self._driver, self._instance)
        with contextlib.suppress(errors.PermissionDenied):  # it was never allowed: then nothing is there
            self._driver._file_threads.call(self._remove_delivered)

    def _remove_delivered(self) -> None:
        """In a native thread."""
        destination = deliver.allow(self._url)
        if destination.scheme != "file":
            return
        note = files.read_note(self._paths, NOTE, Delivered)
        ours = note.identity if note is not None and note.operation_id == self._token else None
        Delivery(destination, self._token).remove(ours)

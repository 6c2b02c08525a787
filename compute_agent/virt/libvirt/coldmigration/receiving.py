# SPDX-License-Identifier: Apache-2.0
"""What the destination notes of a transfer, and what it makes of the files when all of them are there.

While it fills a file is called ``<name>.part``; it gets its name when the source has confirmed it, its size
is the final one, and it stands on this host's copy of its image. These functions run in native threads, or
on the hub where they say so.
"""

import contextlib
import os
import posix
import shutil

import msgspec

from compute_agent.model import clock, errors
from compute_agent.virt.images import process, qemu_img, stamp, usage
from compute_agent.virt.images.disks import Making
from compute_agent.virt.images.part import disk_error, sync_directory
from compute_agent.virt.images.soundness import digest
from compute_agent.virt.libvirt import keys
from compute_agent.virt.libvirt.coldmigration import details
from compute_agent.virt.libvirt.coldmigration.details import MANIFEST, Base, Manifest, Moved
from compute_agent.virt.libvirt.coldmigration.processes import escaped
from compute_agent.virt.libvirt.paths import InstancePaths

NOTE, ARRIVED = "receiving", "arrived"
MANIFEST_ROOM = 8 * 1024 * 1024
_PART = ".part"


class Receiving(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer at its destination.

    :param token: of the migration
    :param incarnation: of the files in the making
    :param files: those that come
    :param images: where this host has the images that disks stand on, by their names at the source
    """

    token: str
    secret: str
    incarnation: str
    port: int | None = None
    files: list[Moved] = []
    images: dict[str, str] = {}

    def parts(self, paths: InstancePaths, directory: str) -> dict[str, str]:
        """Return the files in the making, by the names of their exports."""
        places = {file.export: part(file, paths, directory) for file in self.files}
        return {**places, f"meta.{MANIFEST}": os.path.join(directory, f"{MANIFEST}{_PART}")}


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """What is noted beside the disks of a guest that came; ``keys``: they came too, so they are elsewhere."""

    keys: bool = False


def part(file: Moved, paths: InstancePaths, directory: str) -> str:
    """Return where a file is filled: a key beside the secret, all else in the instance's directory."""
    if file.kind == "key":
        return os.path.join(directory, f"{file.name}.key{_PART}")
    return paths.file(f"{'base.' if file.kind == 'base' else ''}{file.name}{_PART}")


def make_part(path: str, size: int) -> None:
    """Make a file to be filled, all holes, if it is not there.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be made
    """
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise disk_error(error, path) from None
    try:
        posix.ftruncate(fd, size)
    except OSError as error:
        raise disk_error(error, path) from None
    finally:
        posix.close(fd)


def manifest(directory: str) -> Manifest:
    """Return what the source has told last.

    :raises InvalidState: if it has not come
    :raises InvalidArguments: if it makes no sense
    """
    try:
        with open(os.path.join(directory, f"{MANIFEST}{_PART}"), "rb") as file:
            text = file.read(MANIFEST_ROOM)
    except FileNotFoundError:
        raise errors.InvalidState("the disks of the instance have not come") from None
    return details.manifest(text)


def publish(source: str, final: str, size: int | None, mode: int) -> None:
    """Give a file its size (None: it has it) and its name; durable on return. Repeating it is harmless.

    :raises InvalidState: if it is nowhere
    """
    try:
        fd = posix.open(source, posix.O_RDWR | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except FileNotFoundError:
        if os.path.lexists(final):
            return
        raise errors.InvalidState(f"a file of the instance has not come: {final}") from None
    try:
        if size is not None:
            posix.ftruncate(fd, size)
        posix.fchmod(fd, mode)
        posix.fsync(fd)
        posix.rename(source, final)
    except OSError as error:
        raise disk_error(error, final) from None
    finally:
        posix.close(fd)
    sync_directory(os.path.dirname(final))


def publish_keys(paths: InstancePaths, directory: str, sent: list[Moved]) -> None:
    """Keep the keys that came. One that is here stays. Raises as :func:`keys.make`."""
    found = {}
    for file in sent:
        if file.kind == "key":
            with contextlib.suppress(FileNotFoundError), open(part(file, paths, directory), "rb") as source:
                found[file.name] = source.read(file.size_bytes).decode()
    if found:
        keys.make(paths.uuid, found)


def publish_base(source: str, cache: str, base: Base, size: int) -> None:
    """Take an image that was sent along into the cache, if it is what it is said to be.

    :raises ImageChecksumMismatch: if it is not
    :raises DiskFull: if there is no room
    """
    final = os.path.join(cache, base.name)
    if stamp.read(final) is not None or not os.path.lexists(source):
        return
    try:
        os.truncate(source, size)
        if base.file_sha256 is not None and digest(source) != base.file_sha256:
            raise errors.ImageChecksumMismatch(
                f"an image that was sent along is not what it was: {base.name}"
            )
        os.makedirs(cache, mode=0o755, exist_ok=True)
        found = os.stat(source)
        made = stamp.Stamp(
            url="",
            format=base.format,
            virtual_size=base.virtual_size,
            source_size=base.source_size,
            sha256=base.sha256,
            verified=None,
            size=size,
            mtime_ns=found.st_mtime_ns,
            made_at=clock.timestamp(),
            file_sha256=base.file_sha256,
        )
        stamp.write(final, made)
        os.chmod(source, 0o644)
        shutil.move(source, final)
        sync_directory(cache)
    except OSError as error:
        raise disk_error(error, final) from None


def stand_on(path: str, base: str, base_format: str, how: Making) -> None:
    """Let a disk stand on this host's copy of its image. On the hub. Raises as :func:`qemu_img.run`."""
    if process.POOL.call(usage.backing_of, path) == base:
        return
    opened = f"driver=qcow2,file.driver=file,file.filename={escaped(path)}"
    if how.key is not None:
        opened += ",encrypt.key-secret=key"
    arguments = ["rebase", "-u", *how.secret(), "--image-opts", "-F", base_format, "-b", base, opened]
    qemu_img.run(arguments, writes=path)

# SPDX-License-Identifier: Apache-2.0
"""What is kept of a guest at the host that it has left, until its migration is confirmed.

A directory beside the instance's, named for this host, with a note of the definition and, on own storage,
the instance's files. The files lose their place, so nobody starts or evacuates a guest on them by mistake;
on shared storage they stay where they are, since they are the guest's at the destination. These functions
run in native threads.
"""

import contextlib
import os
import shutil

import msgspec

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images.part import disk_error, sync_directory
from compute_agent.virt.libvirt import files
from compute_agent.virt.libvirt.coldmigration import transit
from compute_agent.virt.libvirt.paths import InstancePaths, is_instance_directory, safe_join

NOTE, SENT, FILES = "guest", "sent", "files"


class Aside(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that is set aside, or about to be.

    :param definition: its XML, secrets included
    :param disks: what :meth:`get_instance_disk_info` said of it, as JSON
    """

    definition: str
    disks: str = "[]"


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """All of it is at the destination, and confirmed.

    :param keys: those of its disks, too
    """

    keys: bool = False


def directory(paths: InstancePaths, host: str | None = None) -> str:
    """Return where it is kept.

    :param host: None: this one
    :raises InvalidArguments: if that is no name for a file
    """
    return safe_join(paths.instances_path, f"{paths.uuid}_resize.{host or CONF.host_name}")


def every(instances_path: str) -> list[str]:
    """Return the uuids of the instances of which this host has set something aside, in order."""
    ending = f"_resize.{CONF.host_name}"
    try:
        names = os.listdir(instances_path)
    except FileNotFoundError:
        return []
    uuids = (name.removesuffix(ending) for name in names if name.endswith(ending))
    return sorted(uuid for uuid in uuids if is_instance_directory(uuid))


def moved_files(paths: InstancePaths) -> str:
    """Return where the instance's files are while they are set aside."""
    return os.path.join(directory(paths), FILES)


def is_there(paths: InstancePaths, host: str | None = None) -> bool:
    """Return whether something is set aside here, or at another host with the same storage.

    Raises as :func:`files.is_there`.
    """
    return files.is_there(directory(paths, host))


def read(paths: InstancePaths) -> Aside | None:
    """Return what was noted of the guest; None if nothing was."""
    return transit.read(directory(paths), NOTE, Aside)


def note(paths: InstancePaths, guest: Aside) -> None:
    """Note the guest before anything of it is touched. One that was noted before stays.

    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
    """
    if read(paths) is None:
        transit.make(directory(paths))
        transit.keep(directory(paths), NOTE, guest)
        _sync(paths)


def put(paths: InstancePaths) -> None:
    """Take the files from their place. Repeating it is harmless. Raises as :func:`note`."""
    if not files.is_there(moved_files(paths)):
        _rename(paths, paths.directory, moved_files(paths))


def note_sent(paths: InstancePaths, keys: bool) -> None:
    """Note that all of it is at the destination. Raises as :func:`note`."""
    transit.keep(directory(paths), SENT, Sent(keys=keys))


def sent(paths: InstancePaths) -> Sent | None:
    """Return what was noted of that; None if it was not sent."""
    return transit.read(directory(paths), SENT, Sent)


def put_back(paths: InstancePaths) -> None:
    """Put the files back where they were. Repeating it is harmless.

    :raises InvalidState: if others are there
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory(paths), SENT))
    if not files.is_there(moved_files(paths)):
        return
    if files.is_there(paths.directory):
        raise errors.InvalidState(
            f"files of the instance are where those that were set aside belong: {paths.directory}",
            hint="find out whose they are; the older ones are in " + moved_files(paths),
        )
    _rename(paths, moved_files(paths), paths.directory)


def claim(paths: InstancePaths, owner: files.Owner) -> None:
    """Put this host's name on the files; on shared storage the other host's stands there.

    :raises StaleGeneration: if the instance was placed again since: the files are somebody else's now
    """
    present = files.read_owner(paths)
    if present is not None and present.generation > owner.generation:
        raise errors.StaleGeneration(
            f"the files of the instance belong to host {present.host} with generation {present.generation}"
        )
    files.make_directory(paths, owner)


def remove(paths: InstancePaths) -> bool:
    """Remove what is set aside; return whether there was any. Raises as :func:`note`."""
    found = directory(paths)
    if not files.is_there(found):
        return False
    try:
        shutil.rmtree(found)
    except OSError as error:
        raise disk_error(error, found) from None
    return True


def _rename(paths: InstancePaths, old: str, new: str) -> None:
    try:
        os.rename(old, new)
        _sync(paths)
        sync_directory(directory(paths))
    except OSError as error:
        raise disk_error(error, old) from None


def _sync(paths: InstancePaths) -> None:
    sync_directory(paths.instances_path)

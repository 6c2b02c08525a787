# SPDX-License-Identifier: Apache-2.0
"""Fencing: whose an instance's files are, where several hosts may see them.

The note beside the disks (``owner``) names the host and the placement that they belong to. A host
that was given up and comes back finds another name there, or a higher generation: it neither
starts a guest on those disks nor removes them. Where there is no note nobody has a claim; a note
that can't be read is one that may say anything. These functions run in native threads.
"""

import functools
import os

import msgspec

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.libvirt import files, keys
from compute_agent.virt.libvirt.paths import InstancePaths, is_instance_directory

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def owner(generation: int, operation_id: str) -> files.Owner:
    """Return the note that files are this host's."""
    return files.Owner(
        host=CONF.host_name, generation=generation, operation_id=operation_id, boot_id=boot_id()
    )


@functools.cache
def boot_id() -> str:
    """Return the kernel's id of this boot of the host."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


def is_from_before_boot(paths: InstancePaths) -> bool:
    """Return whether the host has booted since the files were made.

    A disk that was being made then may have its name and not its contents.
    """
    found = files.read_owner(paths)
    return found is not None and found.boot_id not in ("", boot_id())


def check(paths: InstancePaths, generation: int | None = None) -> None:
    """Refuse to touch the files of another host, or of a later placement.

    :param generation: of the placement that we know of; None: whichever it is
    :raises WrongHost: if they are another host's
    :raises StaleGeneration: if the instance was placed again since
    :raises InvalidState: if whose they are can't be told
    :raises PermissionDenied: if the note can't be looked at
    """
    if not files.is_there(paths.owner):
        return
    owner = files.read_owner(paths)
    if owner is None:
        raise errors.InvalidState(
            f"the note of whose the files are is damaged: {paths.owner}",
            hint="find out which host runs the instance; remove the note if it is this one",
        )
    if owner.host != CONF.host_name:
        raise errors.WrongHost(
            f"the files of the instance belong to host {owner.host}, with generation {owner.generation}",
            hint=f"send it to host {owner.host}",
        )
    if generation is not None and owner.generation > generation:
        raise errors.StaleGeneration(
            f"the files of the instance belong to generation {owner.generation}, not {generation}"
        )


def is_anothers(paths: InstancePaths) -> bool:
    """Return whether the files have another host's name on them."""
    owner = files.read_owner(paths)
    return owner is not None and owner.host != CONF.host_name


def of_this_host(instances_path: str) -> list[InstancePaths]:
    """Return whose directories are here and have not another host's name on them."""
    try:
        names = filter(is_instance_directory, os.listdir(instances_path))
    except OSError:
        return []
    found = [InstancePaths(instances_path, name) for name in names]
    return [paths for paths in found if not is_anothers(paths)]


def remove(paths: InstancePaths, generation: int | None = None) -> bool:
    """Remove the files and their keys; return whether there were files. Raises as :func:`check`."""
    check(paths, generation)
    found = files.remove_directory(paths)
    keys.remove(paths.uuid)
    return found


def raise_generation(paths: InstancePaths, generation: int) -> None:
    """Take down that the files belong to a later placement on this host. Raises as :func:`check`."""
    check(paths, generation)
    owner = files.read_owner(paths)
    if owner is not None and owner.generation < generation:
        files.make_directory(paths, msgspec.structs.replace(owner, generation=generation))

# SPDX-License-Identifier: Apache-2.0
"""Where an instance's files are and what its devices are called, all from its uuid.

Nothing here reads the disk or a record: a step's *done?* and the clean-up after a crash
find everything by the uuid alone. Names from a message go through :func:`safe_join`, so
that none leaves its directory.
"""

import dataclasses
import hashlib
import os
import re

from compute_agent.model import errors

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANDOM_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_TAP_PREFIX = "tap"
_TAP_LIMIT = 15
"""Characters of an interface's name that the kernel takes."""


def safe_join(directory: str, *names: str) -> str:
    """Return the path of ``names`` below ``directory``.

    :raises InvalidArguments: if a name is empty, begins with a dot or holds anything but letters,
        digits, ``.``, ``_`` and ``-``
    """
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            raise errors.InvalidArguments(f"not a name for a file: {name[:128]!r}")
    return os.path.join(directory, *names)


def tap_name(vif_id: str) -> str:
    """Return the name of the host's end of a VIF: ``tap`` and what is unique in ``vif_id``.

    A random uuid keeps its first 11 characters, as in OpenStack. Any other id is hashed: two
    that were made together may begin alike, a uuid of version 7 among them.
    """
    if _RANDOM_UUID.fullmatch(vif_id):
        return _TAP_PREFIX + vif_id[:11]
    room = _TAP_LIMIT - len(_TAP_PREFIX)
    return _TAP_PREFIX + hashlib.sha256(vif_id.encode()).hexdigest()[:room]


def is_instance_directory(name: str) -> bool:
    """Return whether a directory entry below instances_path is an instance's directory."""
    return _UUID.fullmatch(name) is not None


@dataclasses.dataclass(frozen=True)
class InstancePaths:
    """The files of one instance.

    :param instances_path: the configured directory, absolute
    :param uuid: the instance's
    :raises InvalidArguments: if ``uuid`` is not a uuid in lower case, or the directory is not absolute
    """

    instances_path: str
    uuid: str

    def __post_init__(self) -> None:
        if not _UUID.fullmatch(self.uuid):
            raise errors.InvalidArguments(f"not a uuid: {self.uuid[:64]!r}")
        if not os.path.isabs(self.instances_path):
            raise errors.InvalidArguments("instances_path is not an absolute path")

    @property
    def directory(self) -> str:
        """The instance's own directory; all else is below it."""
        return os.path.join(self.instances_path, self.uuid)

    @property
    def disk(self) -> str:
        """The root disk."""
        return self.file("disk")

    @property
    def console_log(self) -> str:
        """What the guest wrote to its first serial port."""
        return self.file("console.log")

    @property
    def config_drive(self) -> str:
        """The drive with the guest's metadata and user data."""
        return self.file("disk.config")

    @property
    def swap(self) -> str:
        """The swap disk."""
        return self.file("disk.swap")

    @property
    def rescue_disk(self) -> str:
        """The root disk while the instance is rescued."""
        return self.file("disk.rescue")

    @property
    def disk_info(self) -> str:
        """Notes about the disks."""
        return self.file("disk.info")

    @property
    def owner(self) -> str:
        """On shared storage: which host and generation the disks belong to."""
        return self.file("owner")

    @property
    def removed(self) -> str:
        """The directory's name while it is being deleted, so that a half-deleted one is no instance."""
        return os.path.join(self.instances_path, f"{self.uuid}_del")

    def ephemeral(self, number: int) -> str:
        """Return the ephemeral disk with that number, from 0."""
        return self.file(f"disk.eph{int(number)}")

    def file(self, name: str) -> str:
        """Return a file in the directory.

        :raises InvalidArguments: if ``name`` is not a plain file name
        """
        return safe_join(self.directory, name)

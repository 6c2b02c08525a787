# SPDX-License-Identifier: Apache-2.0
"""Keys of encrypted disks: each a file of its own, that only the agent's user may read.

The key of a disk is what the scheduler gave (``encryption.passphrase``), or one that the agent makes. It is
kept apart from the disks, in ``[ephemeral_storage_encryption] key_directory``, for as long as the disk is: a
guest has to start again when its scheduler is not asked, after a boot of the host for one. QEMU gets it from
libvirt, as a secret that is kept in memory and shown to nobody (:func:`given`); qemu-img reads the file.

A key is written once and never changed. These functions run in native threads.
"""

import contextlib
import logging
import os
import posix
import secrets
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import libvirt
from lxml import etree

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images.part import disk_error, sync_directory
from compute_agent.virt.libvirt import faults
from compute_agent.virt.libvirt.paths import safe_join

LOG = logging.getLogger(__name__)

_KEY_BYTES = 32
_LIMIT = 4096
_DIRECTORY_MODE, _MODE = 0o700, 0o600
_PART = ".part"


def path(instance_uuid: str, disk: str) -> str:
    """Return where the key of a disk is.

    :param disk: name of the disk's file
    :raises InvalidArguments: if either is no name for a file
    """
    return safe_join(_directory(), instance_uuid, disk)


def make(instance_uuid: str, passphrases: Mapping[str, str | None]) -> None:
    """Have a key for each disk, where there is none yet. Repeating it is harmless.

    :param passphrases: by the disks' names; None makes one up
    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
    """
    directory = safe_join(_directory(), instance_uuid)
    try:
        os.makedirs(directory, mode=_DIRECTORY_MODE, exist_ok=True)
        for disk, passphrase in passphrases.items():
            if not os.path.exists(path(instance_uuid, disk)):
                _write(path(instance_uuid, disk), passphrase or secrets.token_hex(_KEY_BYTES))
        sync_directory(directory)
        sync_directory(_directory())
    except OSError as error:
        raise disk_error(error, directory) from None


def of(instance_uuid: str) -> dict[str, bytes]:
    """Return the keys of an instance, by the names of its disks.

    :raises PermissionDenied: if they can't be read
    """
    directory = safe_join(_directory(), instance_uuid)
    try:
        names = [name for name in os.listdir(directory) if not name.endswith(_PART)]
        return {name: _read(os.path.join(directory, name)) for name in names}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise disk_error(error, directory) from None


def remove(instance_uuid: str) -> None:
    """Delete the keys of an instance: its disks can't be read any more. None is no error.

    :raises PermissionDenied: if they may not be deleted
    """
    directory = safe_join(_directory(), instance_uuid)
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
    except OSError as error:
        raise disk_error(error, directory) from None


def secret_uuid(instance_uuid: str, disk: str) -> str:
    """Return libvirt's uuid of the secret with the key of a disk: always the same."""
    return str(uuid.uuid5(uuid.UUID(instance_uuid), f"key of {disk}"))


def give(connection: libvirt.virConnect, instance_uuid: str, keys: Mapping[str, bytes]) -> None:
    """Hand keys to libvirt, which a guest needs to start. It keeps them in memory and shows them to nobody.

    Repeating it is harmless.
    """
    for disk, key in keys.items():
        connection.secretDefineXML(_describe(instance_uuid, disk)).setValue(key)


def _describe(instance_uuid: str, disk: str) -> str:
    """Return the definition of a secret: all but its value."""
    node = etree.Element("secret", ephemeral="yes", private="yes")
    etree.SubElement(node, "uuid").text = secret_uuid(instance_uuid, disk)
    usage = etree.SubElement(node, "usage", type="volume")
    etree.SubElement(usage, "volume").text = f"compute-agent/{instance_uuid}/{disk}"
    return str(etree.tostring(node, encoding="unicode"))


def take_back(connection: libvirt.virConnect, instance_uuid: str, keys: Mapping[str, bytes]) -> None:
    """Have libvirt forget keys: a guest that runs needs them no more. None is no error."""
    for disk in keys:
        try:
            connection.secretLookupByUUIDString(secret_uuid(instance_uuid, disk)).undefine()
        except libvirt.libvirtError as error:
            if faults.code(error) != libvirt.VIR_ERR_NO_SECRET:
                raise


@contextlib.contextmanager
def given(host: Any, instance_uuid: str, keys: Mapping[str, bytes]) -> Iterator[None]:
    """Let libvirt have the keys while a guest starts. On the hub.

    :param host: the gateway to libvirt
    """
    if not keys:
        yield
        return
    host.act(give, instance_uuid, keys)
    try:
        yield
    finally:
        try:
            host.act(take_back, instance_uuid, keys)
        except errors.ComputeError as error:  # it forgets them itself when it ends
            LOG.warning("libvirt keeps the keys of instance %s: %s", instance_uuid, error.message)


def _directory() -> str:
    return os.path.abspath(str(CONF.ephemeral_storage_encryption.key_directory))


def _write(final: str, key: str) -> None:
    part = f"{final}.{uuid.uuid4().hex[:12]}{_PART}"
    fd = posix.open(part, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, _MODE)
    try:
        posix.write(fd, key.encode())
        posix.fsync(fd)
    finally:
        posix.close(fd)
    posix.rename(part, final)


def _read(name: str) -> bytes:
    fd = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    try:
        return posix.read(fd, _LIMIT)
    finally:
        posix.close(fd)

# SPDX-License-Identifier: Apache-2.0
"""The directory of one transfer at one end: its secret, and what this end notes. In native threads.

It lies in ``state_path``, is the agent's alone, and goes when the transfer is over. The secret is made for
one migration of one guest: it is in no argument, no environment and no log, only in a file that QEMU reads.
"""

import contextlib
import os
import posix
import re
import secrets
import shutil
from typing import TypeVar

import msgspec

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images.part import disk_error, sync_directory
from compute_agent.virt.libvirt.coldmigration import processes
from compute_agent.virt.libvirt.paths import is_instance_directory

N = TypeVar("N")

USER = "compute-agent"
_SUBDIRECTORY = "transfers"
_DIRECTORY_MODE, _MODE = 0o700, 0o600
_SECRET_BYTES = 32
_SECRET = re.compile(rf"[0-9a-f]{{{2 * _SECRET_BYTES}}}")
_PSK = "keys.psk"
"""The name that QEMU looks for."""
_NOTE_LIMIT = 8 * 1024 * 1024


def incoming(uuid: str) -> str:
    """Return the directory of the disks that come to this host. Raises as :func:`outgoing`."""
    return _directory(uuid, "in")


def outgoing(uuid: str) -> str:
    """Return the directory of the disks that leave this host.

    :raises InvalidArguments: if ``uuid`` is none
    """
    return _directory(uuid, "out")


def _directory(uuid: str, end: str) -> str:
    if not is_instance_directory(uuid):
        raise errors.InvalidArguments(f"not a uuid: {uuid[:64]!r}")
    return os.path.join(os.path.abspath(CONF.state_path), _SUBDIRECTORY, f"{uuid}.{end}")


def all_incoming() -> list[str]:
    """Return the uuids of the guests whose disks come to this host."""
    try:
        names = posix.listdir(os.path.join(os.path.abspath(CONF.state_path), _SUBDIRECTORY))
    except FileNotFoundError:
        return []
    uuids = [name.removesuffix(".in") for name in names if name.endswith(".in")]
    return [uuid for uuid in uuids if is_instance_directory(uuid)]


def new_secret() -> str:
    """Return a secret that nobody else has."""
    return secrets.token_hex(_SECRET_BYTES)


def write_secret(directory: str, secret: str) -> None:
    """Keep the secret where QEMU reads it. Repeating it is harmless.

    :raises InvalidArguments: if it is none
    :raises DiskFull: if there is no room; :raises PermissionDenied: if it may not be written
    """
    if not _SECRET.fullmatch(secret):
        raise errors.InvalidArguments("not the secret of a transfer")
    make(directory)
    _write(os.path.join(directory, _PSK), f"{USER}:{secret}\n".encode())


def make(directory: str) -> None:
    """Make the directory. Raises as :func:`write_secret`."""
    try:
        os.makedirs(directory, mode=_DIRECTORY_MODE, exist_ok=True)
        os.chmod(directory, _DIRECTORY_MODE)
    except OSError as error:
        raise disk_error(error, directory) from None


def keep(directory: str, name: str, note: msgspec.Struct) -> None:
    """Keep a note; durable on return. Raises as :func:`write_secret`."""
    _write(os.path.join(directory, name), msgspec.json.encode(note))


def read(directory: str, name: str, kind: type[N]) -> N | None:
    """Return a note; None where none can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        fd = posix.open(os.path.join(directory, name), posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
        try:
            return msgspec.json.decode(posix.pread(fd, _NOTE_LIMIT, 0), type=kind)
        finally:
            posix.close(fd)
    return None


def remove(directory: str) -> None:
    """End what serves the transfer, and remove the directory with the secret. None is no error.

    :raises DeviceBusy: if a program does not end
    :raises PermissionDenied: if the directory may not be removed
    """
    processes.end(directory)
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
    except OSError as error:
        raise disk_error(error, directory) from None


def _write(path: str, contents: bytes) -> None:
    part = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            posix.unlink(part)
        fd = posix.open(part, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, _MODE)
        try:
            view = memoryview(contents)
            while view:
                view = view[posix.write(fd, view) :]
            posix.fsync(fd)
        finally:
            posix.close(fd)
        posix.rename(part, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise disk_error(error, path) from None

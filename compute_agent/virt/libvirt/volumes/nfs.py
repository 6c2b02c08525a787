# SPDX-License-Identifier: Apache-2.0
"""``nfs``: a file on an NFS export, which is mounted at a place derived from the export's name.

``data``: ``export`` (host:/path), ``name`` (of the file), ``options`` (for the mount), ``format``.

The place is the one that Cinder and Nova use: the MD5 of the export below ``[volumes]
nfs_mount_point_base``. What is mounted there already is used; else it is mounted, which takes root. It
stays mounted: other guests may use it.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import process
from compute_agent.virt.libvirt.volumes import checks, local
from compute_agent.virt.libvirt.volumes.place import Place

_EXPORT_PATH = re.compile(r"(/[A-Za-z0-9_.@+-]+)+|/")
_OPTION = re.compile(
    r"(ro|rw|hard|soft|noatime|nodev|nosuid|noexec|nolock|nconnect=[0-9]{1,2}|(nfs)?vers=[0-9.]{1,3}"
    r"|proto=(tcp6?|rdma)|[rw]size=[0-9]{1,8}|timeo=[0-9]{1,5}|retrans=[0-9]{1,3}"
    r"|sec=(sys|krb5[ip]?)|port=[0-9]{1,5}|lookupcache=(all|none|pos))"
)
_SAFE = ("nodev", "nosuid", "noexec")
MOUNT_LIMIT_S = 60.0


def read(data: Mapping[str, Any]) -> Place:
    """Return where the volume is. Raises `InvalidArguments` for a wrong export or name of a file."""
    directory = mount_point(export(data))
    name = checks.name(checks.needed(data, "name"), "name")
    return Place(path=os.path.join(directory, name), format=local.file_format(data))


def export(data: Mapping[str, Any]) -> str:
    """Return the export, checked: ``host:/path``."""
    text = checks.needed(data, "export")
    host, colon, path = text.rpartition(":")
    if not colon or not _EXPORT_PATH.fullmatch(path) or ".." in path.split("/"):
        raise checks.wrong("export", "is not host:/path")
    checks.host(host, "export")
    return text


def mount_point(export: str) -> str:
    """Return where an export is mounted."""
    digest = hashlib.md5(export.encode(), usedforsecurity=False).hexdigest()
    return os.path.join(os.path.abspath(CONF.volumes.nfs_mount_point_base), digest)


def options(data: Mapping[str, Any]) -> list[str]:
    """Return the options of the mount, each of a kind that is known to be harmless."""
    text = checks.text(data, "options") or ""
    found = [option for option in text.removeprefix("-o").strip().split(",") if option]
    if not all(_OPTION.fullmatch(option) for option in found):
        raise checks.wrong("options", "hold one that is not allowed")
    return [*found, *(option for option in _SAFE if option not in found)]


def is_mounted(directory: str) -> bool:
    """Return whether something is mounted at a directory, which is made where it is not there.

    In a native thread.

    :raises VolumeUnavailable: if it can't be made
    """
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
    except OSError as error:
        raise _unavailable(f"{directory} can't be made: {error.strerror}") from None
    return os.path.ismount(directory)


def mount(data: Mapping[str, Any]) -> None:
    """Mount the export. In a greenthread; what is mounted already is for the caller to see.

    :raises VolumeUnavailable: if it can't be mounted
    """
    wanted = export(data)
    argv = ["mount", "-t", "nfs", "-o", ",".join(options(data)), "--", wanted, mount_point(wanted)]
    done = process.run(argv, timeout_s=MOUNT_LIMIT_S)
    if done.returncode != 0:
        raise _unavailable("the NFS export can't be mounted", evidence=done.stderr)


def _unavailable(message: str, evidence: str | None = None) -> errors.VolumeUnavailable:
    return errors.VolumeUnavailable(
        message, evidence=evidence, hint="mount the export at its place below [volumes] nfs_mount_point_base"
    )

# SPDX-License-Identifier: Apache-2.0
"""All other kinds of volumes, through os-brick: the host's kernel connects them and shows a block device.

os-brick is an optional extra (``pip install compute-agent[volumes]``), imported when the first such volume
comes. A guest's domain names a link in the instance's directory, made when the volume has been connected:
so the domain can be designed before, and again, whatever the kernel calls the device next time.
"""

import contextlib
import functools
import importlib
import os
import stat
from collections.abc import Mapping
from typing import Any

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.libvirt.paths import InstancePaths
from compute_agent.virt.libvirt.volumes.place import Place

KINDS = ("fibre_channel", "nvmeof", "nvme", "scaleio", "storpool", "iser", "lightos")
PREFIX = "volume-"
_HINT = "pip install 'compute-agent[volumes]' installs os-brick"
_ROOT_HELPER = "sudo"


def knows(kind: str) -> bool:
    """Return whether os-brick connects volumes of this kind."""
    return kind in KINDS


def read(kind: str, paths: InstancePaths, volume_id: str) -> Place:
    """Return where the volume will be.

    :raises UnsupportedOperation: if os-brick is not installed
    """
    load(kind)
    return Place(path=link(paths, volume_id), block=True)


def link(paths: InstancePaths, volume_id: str) -> str:
    """Return the link's path."""
    return paths.file(f"{PREFIX}{volume_id}")


def load(kind: str) -> Any:
    """Return os-brick's module of connectors.

    :raises UnsupportedOperation: if it is not installed
    """
    try:
        module = importlib.import_module("os_brick.initiator.connector")
        _set_up()
    except ImportError:
        raise errors.UnsupportedOperation(
            f"volumes of type {kind} take os-brick, which is not installed", hint=_HINT
        ) from None
    return module


@functools.cache
def _set_up() -> None:
    """Tell os-brick where its locks are, and, as root, to do its work itself: not by sudo and a helper."""
    locks = os.path.join(CONF.state_path, "locks")
    importlib.import_module("oslo_concurrency.lockutils").set_defaults(locks)
    importlib.import_module("os_brick").setup(CONF)
    if os.geteuid() == 0:
        importlib.import_module("os_brick.privileged").default.set_client_mode(False)


def connect(kind: str, data: Mapping[str, Any], paths: InstancePaths, volume_id: str) -> None:
    """Connect a volume and make its link. In a native thread. Repeating it is harmless.

    :raises VolumeUnavailable: if it can't be connected
    """
    connector = _connector(kind)
    try:
        device = connector.connect_volume(dict(data))
        path = os.path.realpath(os.fsdecode(device["path"]))
        if not stat.S_ISBLK(os.stat(path).st_mode):
            raise errors.VolumeUnavailable(f"{path} is no block device")
        _point(link(paths, volume_id), path)
    except errors.ComputeError:
        raise
    except Exception as error:  # os-brick's errors have no common base
        raise errors.VolumeUnavailable(
            f"os-brick could not connect the volume: {type(error).__name__}", evidence=str(error)
        ) from error


def disconnect(kind: str, data: Mapping[str, Any], paths: InstancePaths, volume_id: str) -> None:
    """Disconnect a volume and remove its link. In a native thread. One that is not connected is success.

    :raises VolumeUnavailable: if it can't be disconnected
    """
    path = link(paths, volume_id)
    try:
        _connector(kind).disconnect_volume(dict(data), None, force=False, ignore_errors=False)
    except Exception as error:
        if os.path.lexists(path):
            raise errors.VolumeUnavailable(
                f"os-brick could not disconnect the volume: {type(error).__name__}", evidence=str(error)
            ) from error
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def extend(kind: str, data: Mapping[str, Any]) -> int:
    """Let the host see a volume's new size; return it, in bytes. In a native thread."""
    try:
        return int(_connector(kind).extend_volume(dict(data)) or 0)
    except Exception as error:
        raise errors.VolumeUnavailable(
            f"os-brick could not extend the volume: {type(error).__name__}", evidence=str(error)
        ) from error


def properties(host: str) -> dict[str, Any] | None:
    """Return what os-brick tells of this host; None without os-brick. In a native thread."""
    try:
        module = load("any")
    except errors.UnsupportedOperation:
        return None
    multipath = bool(CONF.volumes.iscsi_use_multipath)
    return dict(module.get_connector_properties(_ROOT_HELPER, CONF.my_ip, multipath, multipath, host=host))


def _connector(kind: str) -> Any:
    module = load(kind)
    multipath = bool(CONF.volumes.iscsi_use_multipath)
    return module.InitiatorConnector.factory(kind.upper(), _ROOT_HELPER, use_multipath=multipath)


def _point(path: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.part")
    os.symlink(target, f"{path}.part")
    os.rename(f"{path}.part", path)

# SPDX-License-Identifier: Apache-2.0
"""What a ``connection_info`` may say. It comes from a message and leads to paths, XML and sockets.

Every value is taken by its name, checked for its type and its characters, and refused as `InvalidArguments`
with the name of what is wrong; the value itself is not told, since it may be a password in the wrong place.
Paths are allowed below the prefixes of ``[volumes] allowed_paths`` only, links followed first.
"""

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from compute_agent.conf import CONF
from compute_agent.model import errors

_LABEL = "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_NUMERIC = re.compile(r"(0[xX])?[0-9a-fA-F]+(\.[0-9a-fA-FxX]+)*\.?")
_IQN = re.compile(r"(iqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9.:_-]{1,200}|(eui|naa)\.[0-9A-Fa-f]{16,32})")
_NAME = re.compile(r"[A-Za-z0-9_.@+-][A-Za-z0-9_.@+:=-]{0,254}")
_PATH = re.compile(r"/[^\x00-\x1f\x7f]{1,1023}")
_SERIAL = re.compile(r"[A-Za-z0-9_.+-]{1,255}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9!_.:-]+(/[A-Za-z0-9!_.:-]+)?")
_SECRET_LIMIT = 1024


def wrong(what: str, why: str) -> errors.InvalidArguments:
    """Return the error for a wrong value."""
    return errors.InvalidArguments(f"connection_info: {what} {why}", retryable=False)


def volume_id(value: object) -> str:
    """Return a volume's id, which becomes the disk's serial number in the guest."""
    if not isinstance(value, str) or not _SERIAL.fullmatch(value):
        raise errors.InvalidArguments("a volume_id may hold letters, digits and _ . + - only")
    return value


def text(data: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of ``names`` that there is, as text; None if there is none."""
    for name in names:
        value = data.get(name)
        if value is not None and value != "":
            if not isinstance(value, str) or len(value) > 4096:
                raise wrong(name, "is no text")
            return value
    return None


def needed(data: Mapping[str, Any], *names: str) -> str:
    """As :func:`text`, where there has to be one."""
    found = text(data, *names)
    if found is None:
        raise wrong(names[0], "is missing")
    return found


def host(value: object, what: str = "host") -> str:
    """Return a host's name or address (without brackets); one that only looks like an address is refused."""
    if isinstance(value, str):
        plain = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        try:
            return str(ipaddress.ip_address(plain))
        except ValueError:
            pass
        if _HOST.fullmatch(value) and not _NUMERIC.fullmatch(value):
            return value
    raise wrong(what, "is no name or address of a host")


def port(value: object, what: str = "port") -> int:
    """Return a port."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise wrong(what, "is no port")
    return value


def portal(value: str, default_port: int, what: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[address]:port``."""
    name, colon, number = value.rpartition(":")
    if not colon or (name.startswith("[") and not name.endswith("]")) or value.endswith("]"):
        return host(value, what), default_port
    return host(name, what), port(number, what)


def iqn(value: object, what: str) -> str:
    """Return the name of an iSCSI target or initiator."""
    if not isinstance(value, str) or not _IQN.fullmatch(value):
        raise wrong(what, "is no name of an iSCSI node")
    return value


def name(value: object, what: str) -> str:
    """Return a plain name: an export, a pool, an image, a user."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in (".", ".."):
        raise wrong(what, "is no plain name")
    return value


def number(value: object, what: str, highest: int) -> int:
    """Return a number from 0."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise wrong(what, f"is no number up to {highest}")
    return value


def uuid(value: object, what: str) -> str:
    """Return a uuid."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise wrong(what, "is no uuid")
    return value


def secret(value: object, what: str) -> bytes:
    """Return a password."""
    if not isinstance(value, str) or not 0 < len(value) <= _SECRET_LIMIT or "\0" in value:
        raise wrong(what, "is no password")
    return value.encode()


def flag(data: Mapping[str, Any], what: str) -> bool:
    """Return a yes or no; no where nothing is said."""
    value = data.get(what)
    if value is not None and not isinstance(value, bool):
        raise wrong(what, "is neither true nor false")
    return bool(value)


def path(value: object, what: str) -> str:
    """Return an absolute path, allowed by its name. Its links are judged by :func:`real`."""
    if not isinstance(value, str) or not _PATH.fullmatch(value) or os.path.normpath(value) != value:
        raise wrong(what, "is no absolute path in its plain form")
    if not _is_below(value, allowed()):
        raise errors.PermissionDenied(
            f"connection_info: {what} leads to no place that volumes may be at",
            hint="[volumes] allowed_paths names the places",
        )
    return value


def real(value: str) -> str:
    """Return where ``value`` really leads. In a native thread.

    :raises PermissionDenied: if that is outside the allowed places
    """
    found = os.path.realpath(value)
    prefixes = allowed()
    if not _is_below(found, [*prefixes, *map(os.path.realpath, prefixes)]) and not _is_device(value, found):
        raise errors.PermissionDenied(
            f"{value} leads to no place that volumes may be at",
            hint="[volumes] allowed_paths names the places; a link has to stay below them too",
        )
    return found


def allowed() -> list[str]:
    """Return the prefixes, as directories."""
    return [prefix.rstrip("/") for prefix in CONF.volumes.allowed_paths if prefix.startswith("/")]


def _is_below(value: str, prefixes: Sequence[str]) -> bool:
    return any(value.startswith(f"{prefix}/") for prefix in prefixes)


def _is_device(value: str, found: str) -> bool:
    """Whether udev's link below ``/dev/`` leads to the device that it names: both are the host's doing."""
    return value.startswith("/dev/") and _DEVICE.fullmatch(found) is not None


def stays_below(value: str, directory: str) -> None:
    """Refuse a file that is a link out of its directory. In a native thread.

    :raises PermissionDenied: if it is one
    """
    if not _is_below(os.path.realpath(value), [os.path.realpath(directory)]):
        raise errors.PermissionDenied(f"{value} leads out of its directory")

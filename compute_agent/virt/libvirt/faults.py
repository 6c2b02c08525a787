# SPDX-License-Identifier: Apache-2.0
"""Libvirt's errors as ours.

An error is told apart by its code, its domain and its errno, never by its text. The text
goes along as evidence: it often quotes the end of QEMU's log.
"""

import errno

import libvirt

from compute_agent.model import errors

_LOST_CODES = frozenset({libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR})
_ALWAYS_LOST = frozenset({libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_NO_CONNECT})
_WIRE = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})

_BY_CODE: dict[int, type[errors.ComputeError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: errors.InstanceNotFound,
    libvirt.VIR_ERR_DOM_EXIST: errors.InstanceExists,
    libvirt.VIR_ERR_NO_CONNECT: errors.HypervisorUnavailable,
    libvirt.VIR_ERR_INVALID_CONN: errors.HypervisorUnavailable,
    libvirt.VIR_ERR_AUTH_FAILED: errors.PermissionDenied,
    libvirt.VIR_ERR_AUTH_CANCELLED: errors.PermissionDenied,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: errors.PermissionDenied,
    libvirt.VIR_ERR_ACCESS_DENIED: errors.PermissionDenied,
    libvirt.VIR_ERR_OPERATION_DENIED: errors.PermissionDenied,
    libvirt.VIR_ERR_NO_MEMORY: errors.InsufficientResources,
    libvirt.VIR_ERR_NO_SUPPORT: errors.UnsupportedOperation,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: errors.UnsupportedOperation,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: errors.UnsupportedOperation,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: errors.Timeout,
    libvirt.VIR_ERR_OPERATION_ABORTED: errors.Cancelled,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: errors.GuestAgentUnavailable,
    libvirt.VIR_ERR_AGENT_UNSYNCED: errors.GuestAgentUnavailable,
    libvirt.VIR_ERR_RESOURCE_BUSY: errors.DeviceBusy,
    libvirt.VIR_ERR_NO_NETWORK: errors.NetworkUnavailable,
    libvirt.VIR_ERR_NO_INTERFACE: errors.NetworkUnavailable,
    libvirt.VIR_ERR_NO_STORAGE_POOL: errors.VolumeUnavailable,
    libvirt.VIR_ERR_NO_STORAGE_VOL: errors.VolumeUnavailable,
    libvirt.VIR_ERR_MIGRATE_UNSAFE: errors.MigrationRefused,
}
_BY_ERRNO: dict[int, type[errors.ComputeError]] = {
    errno.ENOSPC: errors.DiskFull,
    errno.EDQUOT: errors.DiskFull,
    errno.ENOMEM: errors.InsufficientResources,
    errno.EACCES: errors.PermissionDenied,
    errno.EPERM: errors.PermissionDenied,
}


class ConnectionLost(Exception):
    """The connection broke, or could not be made; whether the call took effect is not known."""


def code(error: libvirt.libvirtError) -> int:
    """Return libvirt's number for what went wrong; -1 when it gave none."""
    number = error.get_error_code()
    return -1 if number is None else int(number)


def number(error: libvirt.libvirtError) -> int:
    """Return the errno of a failed system call; 0 where none failed."""
    if code(error) != libvirt.VIR_ERR_SYSTEM_ERROR:
        return 0
    return int(error.get_int1() or 0)


def is_lost(error: libvirt.libvirtError) -> bool:
    """Return whether it is the connection that failed, and not the call."""
    if code(error) in _ALWAYS_LOST:
        return True
    return code(error) in _LOST_CODES and int(error.get_error_domain() or 0) in _WIRE


def is_wrong_state(error: libvirt.libvirtError) -> bool:
    """Return whether the domain is not in a state for the call: often it is where it was to go."""
    return code(error) == int(libvirt.VIR_ERR_OPERATION_INVALID)


def to_compute_error(error: libvirt.libvirtError) -> errors.ComputeError:
    """Return the typed error for one of libvirt's."""
    if is_lost(error):
        return errors.HypervisorUnavailable("the connection to libvirt is lost", evidence=str(error))
    kind = _BY_CODE.get(code(error)) or _BY_ERRNO.get(number(error), errors.HypervisorError)
    evidence = f"{error} (code {code(error)}, domain {error.get_error_domain()})"
    return kind(f"libvirt: {str(error).splitlines()[0] if str(error) else 'failed'}", evidence=evidence)

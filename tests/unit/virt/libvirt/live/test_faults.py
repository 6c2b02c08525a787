# SPDX-License-Identifier: Apache-2.0
"""Libvirt's errors become ours by their codes, whatever their texts say."""

import errno

import libvirt
import pytest

from compute_agent.model import errors
from compute_agent.virt.libvirt import faults


def _error(
    code: int, domain: int = libvirt.VIR_FROM_QEMU, number: int = -1, text: str = "words"
) -> Exception:
    error = libvirt.libvirtError(text)
    error.err = (code, domain, text, libvirt.VIR_ERR_ERROR, None, None, None, number, -1)
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_error(libvirt.VIR_ERR_NO_DOMAIN), errors.InstanceNotFound),
        (_error(libvirt.VIR_ERR_OPERATION_INVALID), errors.HypervisorError),
        (_error(libvirt.VIR_ERR_INTERNAL_ERROR), errors.HypervisorError),
        (_error(libvirt.VIR_ERR_NO_SUPPORT), errors.UnsupportedOperation),
        (_error(libvirt.VIR_ERR_OPERATION_TIMEOUT), errors.Timeout),
        (_error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE), errors.GuestAgentUnavailable),
        (_error(libvirt.VIR_ERR_AUTH_FAILED), errors.PermissionDenied),
        (_error(libvirt.VIR_ERR_SYSTEM_ERROR, number=errno.ENOSPC), errors.DiskFull),
        (_error(libvirt.VIR_ERR_SYSTEM_ERROR, number=errno.EACCES), errors.PermissionDenied),
        (_error(libvirt.VIR_ERR_SYSTEM_ERROR, number=errno.EIO), errors.HypervisorError),
        (_error(libvirt.VIR_ERR_INTERNAL_ERROR, number=errno.ENOSPC), errors.HypervisorError),
        (_error(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC), errors.HypervisorUnavailable),
        (_error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_REMOTE), errors.HypervisorUnavailable),
        (_error(libvirt.VIR_ERR_NO_CONNECT), errors.HypervisorUnavailable),
        (libvirt.libvirtError("no details"), errors.HypervisorError),
    ],
)
def test_the_code_decides(error: Exception, expected: type[errors.ComputeError]) -> None:
    found = faults.to_compute_error(error)
    assert type(found) is expected
    assert found.evidence


def test_the_text_decides_nothing() -> None:
    misleading = _error(libvirt.VIR_ERR_INTERNAL_ERROR, text="Domain not found: client socket is closed")
    assert type(faults.to_compute_error(misleading)) is errors.HypervisorError
    assert not faults.is_lost(misleading)

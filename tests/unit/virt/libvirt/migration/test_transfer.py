# SPDX-License-Identifier: Apache-2.0
"""What is followed of a transfer: its limits, its progress, its end."""

from __future__ import annotations

import libvirt

from compute_agent.virt.libvirt.migration import transfer
from compute_agent.virt.libvirt.migration.transfer import Transfer


def test_the_downtime_grows_to_its_limit() -> None:
    steps = transfer.downtimes(500, 5, 10.0)
    assert [at for at, _ in steps] == [0, 10, 20, 30, 40]
    assert steps[0][1] == 50 and steps[-1][1] == 500
    assert sorted(steps) == steps
    assert transfer.downtimes(500, 1, 10.0) == [(0.0, 500)]
    assert transfer.downtimes(500, 2, 10.0, first_ms=300) == [(0.0, 300), (10.0, 500)]
    assert transfer.downtimes(200, 2, 10.0, first_ms=300) == [(0.0, 200)]


def test_progress_is_what_libvirt_counts() -> None:
    seen = Transfer([])
    seen.note({"memory_total": 100, "memory_processed": 40, "memory_remaining": 60, "memory_bps": 20})
    assert (seen.status.status, seen.status.remaining_ram, seen.status.rate_bps) == ("running", 60, 20)
    assert seen.status.expected_ms == 3000 and not seen.status.stalled
    seen.note({"downtime": 120}, "completed")
    assert (seen.status.status, seen.status.downtime_ms, seen.status.total_ram) == ("completed", 120, 100)


def test_a_transfer_that_was_stopped_is_cancelled_and_not_tried_again() -> None:
    seen = Transfer([])
    error = libvirt.libvirtError("aborted")
    error.err = (libvirt.VIR_ERR_OPERATION_ABORTED, 10, "aborted", 2, None, None, None, -1, -1)
    seen.fail(error)
    assert seen.ending == "cancelled" and seen.error is not None and not seen.error.retryable

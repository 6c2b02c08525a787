# SPDX-License-Identifier: Apache-2.0
"""What is refused before a guest is moved."""

from __future__ import annotations

from typing import Any

import pytest

from compute_agent.model import errors
from compute_agent.virt.info import LiveMigrateData
from compute_agent.virt.libvirt.migration import checks
from compute_agent.virt.libvirt.migration.details import Destination, MovedDisk

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
MARK = "shared_storage_mark_" + "0" * 32
TO = Destination(address="10.0.0.2", instances_path="/srv/instances", mark=MARK, free_bytes=10 * 2**20)
DISK = MovedDisk(target="vda", name="disk", format="qcow2", size_bytes=20 * 2**20, used_bytes=5 * 2**20)


def _host(**fields: Any) -> dict[str, Any]:
    usual = {"hypervisor_type": "QEMU", "hypervisor_version": 7_002_000, "cpu_info": {"arch": "x86_64"}}
    return usual | fields


def _data(**fields: Any) -> LiveMigrateData:
    return LiveMigrateData(instance_uuid=UUID, **fields)


@pytest.mark.parametrize(
    "there",
    [
        _host(),
        _host(hypervisor_version=7_002_022),
        _host(hypervisor_version=6_000_000),
    ],
    ids=["same", "fixes only", "older"],
)
def test_hosts_that_fit_are_let_pass(there: dict[str, Any]) -> None:
    checks.same_kind(there, _host())


@pytest.mark.parametrize(
    "there",
    [
        _host(hypervisor_type="fake"),
        _host(hypervisor_version=8_000_000),
        _host(cpu_info={"arch": "aarch64"}),
        {},
    ],
    ids=["kind", "newer", "architecture", "unknown"],
)
def test_hosts_that_do_not_fit_are_refused(there: dict[str, Any]) -> None:
    with pytest.raises(errors.MigrationRefused):
        checks.same_kind(there, _host())


@pytest.mark.parametrize("there", [9_000_000, 9_000_003, 10_001_000], ids=["same", "fixes only", "newer"])
def test_a_libvirt_that_is_not_older_is_let_pass(there: int) -> None:
    checks.libvirt_fits(9_000_002, there)


@pytest.mark.parametrize("there", [8_010_000, 0], ids=["older", "unknown"])
def test_a_libvirt_that_may_not_understand_the_guest_is_refused(there: int) -> None:
    with pytest.raises(errors.MigrationRefused, match="libvirt of the destination"):
        checks.libvirt_fits(9_000_002, there)


@pytest.mark.parametrize(
    ("asked", "shared", "disks", "copied"),
    [
        (None, True, [DISK], False),
        (None, False, [DISK], True),
        (False, True, [DISK], False),
        (False, False, [], True),
        (True, False, [DISK], True),
    ],
)
def test_whether_disks_are_copied_is_found_out(
    asked: bool | None, shared: bool, disks: list[MovedDisk], copied: bool
) -> None:
    data = _data(is_shared_instance_path=shared, disk_over_commit=True)
    assert checks.storage(data, asked, disks, TO) is copied


@pytest.mark.parametrize(
    ("asked", "shared", "over_commit"),
    [(True, True, True), (False, False, True), (None, False, False)],
    ids=["copy what is shared", "share what is not", "no room"],
)
def test_storage_that_does_not_fit_is_refused(asked: bool | None, shared: bool, over_commit: bool) -> None:
    data = _data(is_shared_instance_path=shared, disk_over_commit=over_commit)
    with pytest.raises(errors.MigrationRefused):
        checks.storage(data, asked, [DISK], TO)


def test_a_check_that_fails_is_a_refusal_with_its_text() -> None:
    with pytest.raises(errors.MigrationRefused) as refused, checks.refusing():
        raise errors.NetworkUnavailable("no such bridge", hint="make it")
    assert (refused.value.message, refused.value.hint) == ("no such bridge", "make it")


@pytest.mark.parametrize("kind", [errors.HypervisorUnavailable, errors.Timeout, errors.Cancelled])
def test_what_could_not_be_checked_is_no_refusal(kind: type[errors.ComputeError]) -> None:
    with pytest.raises(kind), checks.refusing():
        raise kind("later")

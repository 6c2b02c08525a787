# SPDX-License-Identifier: Apache-2.0
"""How a guest is moved, as its scheduler and the operator want it: post-copy, TLS, connections, progress."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.conftest import Pair
from tests.lab.trial import BUSY, SLOW_MBIT, TCP, on_trial
from tests.rig.lab import Lab
from tests.rig.process import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

_WAIT_S = 240.0


def _sections(**options: object) -> dict[str, dict[str, object]]:
    return {"libvirt": {**TCP["libvirt"], **options}}


def test_a_guest_that_is_switched_over_before_its_memory_runs_at_the_destination(
    pair: Callable[..., Pair],
) -> None:
    sections = _sections(live_migration_permit_post_copy=True)
    with on_trial(pair(shared=True, sections=sections), program=BUSY) as trial:
        trial.migrate(timeout_s=600, policy={"post_copy": True})
        trial.wait_copying()
        trial.sender.cast("live_migration_force_complete", instance_uuid=trial.guest.uuid)
        trial.settle(moved=True)


def test_a_post_copy_that_is_not_permitted_is_refused(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=TCP)) as trial:
        trial.migrate(policy={"post_copy": True})
        trial.settle(moved=False, error="MigrationRefused")


def test_progress_says_how_much_how_fast_and_how_long_over_several_connections(
    pair: Callable[..., Pair],
) -> None:
    sections = _sections(live_migration_parallel_connections=2)
    with on_trial(pair(shared=False, sections=sections), program=BUSY) as trial:
        trial.source_host.shape(SLOW_MBIT)
        asked = trial.migrate(timeout_s=900, policy={"bandwidth_mib": 8})

        def told() -> dict[str, Any]:
            return dict(trial.status().get("transfer") or {})

        wait_until(
            lambda: told().get("rate_bps", 0) > 0 and told().get("expected_ms"),
            _WAIT_S,
            "a rate",
            trial.evidence,
        )
        seen = told()
        assert seen["status"] == "running" and 0 < seen["rate_bps"] < 64 * 2**20
        assert seen["remaining_ram"] <= seen["total_ram"] and seen["total_disk"] > 0
        wait_until(lambda: told().get("stalled"), _WAIT_S, "that it gets nowhere is told", trial.evidence)
        trial.source_host.unshape()
        trial.sender.cast("live_migration_force_complete", instance_uuid=trial.guest.uuid)
        trial.settle(moved=True)
        events = [event for event in trial.both.receiver.events if event.get("operation_id") == asked]
        assert [event for event in events if event["type"] == "operation.progress"]


# --- TLS ------------------------------------------------------------------------------------------------


@pytest.fixture
def certified(lab: Lab) -> Iterator[pathlib.Path]:
    """A CA, and one certificate for both hosts by their addresses, given to QEMU."""
    pki = lab.scratch / "pki"
    pki.mkdir(exist_ok=True)
    _make_certificates(pki, [host.address for host in lab.hosts])
    for host in lab.hosts:
        host.hypervisor.configure_qemu(f'migrate_tls_x509_cert_dir = "{pki}"\nmigrate_tls_x509_verify = 1\n')
    yield pki
    for host in lab.hosts:
        host.hypervisor.configure_qemu("")


def _make_certificates(pki: pathlib.Path, addresses: list[str]) -> None:
    names = ",".join(f"IP:{address}" for address in addresses)
    ca, key = ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem"], ["-newkey", "rsa:2048", "-nodes"]
    (pki / "names").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
    for line in (
        [
            "req",
            "-x509",
            *key,
            "-keyout",
            "ca-key.pem",
            "-out",
            "ca-cert.pem",
            "-subj",
            "/CN=lab",
            "-days",
            "2",
        ],
        ["req", *key, "-keyout", "server-key.pem", "-out", "request", "-subj", "/CN=host"],
        ["x509", "-req", "-in", "request", *ca, "-out", "server-cert.pem", "-days", "2", "-extfile", "names"],
    ):
        subprocess.run(["openssl", *line], cwd=pki, check=True, capture_output=True, timeout=120)
    for kind in ("key", "cert"):
        (pki / f"client-{kind}.pem").write_bytes((pki / f"server-{kind}.pem").read_bytes())


def test_memory_and_disks_are_encrypted_where_the_operator_wants_that(
    certified: pathlib.Path, pair: Callable[..., Pair]
) -> None:
    with on_trial(pair(shared=False, sections=_sections(live_migration_with_native_tls=True))) as trial:
        trial.migrate()
        trial.settle(moved=True)
        # Who knows nobody's certificate is not told the guest's memory.
        (certified / "client-cert.pem").unlink()
        (certified / "server-cert.pem").unlink()
        trial.migrate()
        trial.settle(moved=False, error="MigrationFailed")

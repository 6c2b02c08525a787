# SPDX-License-Identifier: Apache-2.0
"""What libvirt's states say of a guest that is moved, at either end."""

from __future__ import annotations

from unittest import mock

import libvirt
import pytest

from compute_agent.model.handshake import Fact
from compute_agent.virt.libvirt.migration import look

UUID = "6a9cc7a4-1b4e-4d3c-8f5e-0d7b2f6a1c11"
RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)
MOVED = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)
CRASHED = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED)
ARRIVING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
POSTCOPY = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY)
BROKEN_OFF = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)
REST_FOLLOWS = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY)
REST_DOES_NOT_FOLLOW = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)


def _connection(state: tuple[int, int], *, job: bool = False) -> mock.Mock:
    connection: mock.Mock = mock.create_autospec(libvirt.virConnect, instance=True)
    domain = mock.create_autospec(libvirt.virDomain, instance=True)
    connection.lookupByUUIDString.return_value = domain
    domain.state.return_value = list(state)
    domain.jobInfo.return_value = [
        libvirt.VIR_DOMAIN_JOB_UNBOUNDED if job else libvirt.VIR_DOMAIN_JOB_NONE,
        *[0] * 11,
    ]
    return connection


@pytest.mark.parametrize(
    ("state", "job", "fact"),
    [
        (RUNNING, False, Fact.RUNS),
        (RUNNING, True, Fact.BUSY),
        (PAUSED, False, Fact.HELD),
        (ARRIVING, True, Fact.BUSY),
        (POSTCOPY, False, Fact.BUSY),
        (BROKEN_OFF, True, Fact.SPENT),
        (MOVED, False, Fact.MOVED),
        (CRASHED, False, Fact.OFF),
    ],
)
def test_at_the_source(state: tuple[int, int], job: bool, fact: Fact) -> None:
    assert look.at_source(_connection(state, job=job), UUID) is fact


@pytest.mark.parametrize(
    ("state", "job", "fact"),
    [
        (RUNNING, True, Fact.RUNS),
        (ARRIVING, False, Fact.BUSY),
        (PAUSED, True, Fact.BUSY),
        (PAUSED, False, Fact.HELD),
        (BROKEN_OFF, True, Fact.PARTIAL),
        (REST_FOLLOWS, False, Fact.PARTIAL),
        (REST_DOES_NOT_FOLLOW, False, Fact.PARTIAL),
        (CRASHED, False, Fact.OFF),
    ],
)
def test_at_the_destination(state: tuple[int, int], job: bool, fact: Fact) -> None:
    assert look.at_destination(_connection(state, job=job), UUID) is fact


def test_where_there_is_no_domain() -> None:
    connection = mock.create_autospec(libvirt.virConnect, instance=True)
    error = libvirt.libvirtError("no domain")
    error.err = (libvirt.VIR_ERR_NO_DOMAIN, 10, "no domain", 2, None, None, None, -1, -1)
    connection.lookupByUUIDString.side_effect = error
    assert look.at_source(connection, UUID) is Fact.OFF
    assert look.at_destination(connection, UUID) is Fact.ABSENT

# SPDX-License-Identifier: Apache-2.0
"""A post-copy breaks off: the guest is whole at neither host, and stands still until the rest has come."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.conftest import Pair
from tests.lab.trial import BUSY, END_S, PORTS, SLOW_MBIT, TCP, Trial, on_trial
from tests.rig.process import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

_SECTIONS = {
    "libvirt": {
        **TCP["libvirt"],
        "live_migration_permit_post_copy": True,
        "live_migration_post_copy_recovery": 40,
    }
}


def _break_off(trial: Trial) -> None:
    """Switch a guest over and break the connection by which the rest of its memory comes."""
    hosts = (trial.source_host, trial.destination_host)
    trial.source_host.shape(SLOW_MBIT)
    trial.migrate(timeout_s=900, policy={"post_copy": True})
    trial.wait_copying()
    trial.sender.cast("live_migration_force_complete", instance_uuid=trial.guest.uuid)
    wait_until(
        lambda: trial.guest.running_on() == [trial.destination_host], END_S, "a switch-over", trial.evidence
    )
    for host in hosts:
        host.hang_up(PORTS)
    wait_until(
        lambda: "post-copy failed" in hosts[0].virsh("domstate", "--reason", trial.guest.uuid),
        END_S,
        "that it broke off",
        trial.evidence,
    )


def _settle(trial: Trial) -> None:
    """It goes on, or is given up in time and can be booted.

    QEMU at the destination may hang, in wait for the very memory that it is to be told of (seen in 7.2).
    """
    trial.source_host.unshape()
    trial.both.receiver.end_of(trial.migrations[-1], END_S)
    there = trial.both.senders[1 - trial.here]
    state = there.call("get_instance", instance_uuid=trial.guest.uuid)["state"]
    trial.settle(moved=True, state=state, lost=state != "active")
    print(f"the guest is {state}")
    if state == "active":
        trial.moves_on()
    else:
        trial.start_again()


def test_it_is_gone_on_with_or_given_up_in_time(pair: Callable[..., Pair]) -> None:
    with on_trial(pair(shared=True, sections=_SECTIONS), program=BUSY) as trial:
        _break_off(trial)
        _settle(trial)


def test_killed_agents_and_a_killed_libvirtd_go_on_with_it_or_give_it_up_in_time(
    pair: Callable[..., Pair],
) -> None:
    with on_trial(pair(shared=True, sections=_SECTIONS), program=BUSY) as trial:
        _break_off(trial)
        agents = (trial.source, trial.destination)
        for agent in agents:
            agent.kill()
        trial.destination_host.hypervisor.restart(kill=True)
        for agent in agents:
            agent.start()
        _settle(trial)


def test_what_can_not_be_made_whole_is_ended_and_can_be_booted_again(pair: Callable[..., Pair]) -> None:
    """The memory at the source is lost: with it the guest, but not its disk, and nobody is left waiting.

    Libvirt 9 sometimes keeps the job of a QEMU that died in a post-copy: only a start of it mends that.
    """
    with on_trial(pair(shared=True, sections=_SECTIONS), program=BUSY) as trial:
        _break_off(trial)
        trial.source_host.hypervisor.kill_guest(trial.guest.uuid)
        trial.source_host.unshape()
        there = trial.both.senders[1 - trial.here]
        wait_until(
            lambda: there.call("get_instance", instance_uuid=trial.guest.uuid)["state"] == "stopped",
            END_S,
            "the end of what can't be made whole",
            trial.evidence,
        )
        trial.source_host.hypervisor.restart(kill=True)
        trial.settle(moved=True, state="stopped", lost=True)
        trial.start_again()

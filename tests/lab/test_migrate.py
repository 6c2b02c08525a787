# SPDX-License-Identifier: Apache-2.0
"""Live migration as a scheduler asks for it: by cast, from agent to agent, of a real guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab.conftest import Pair
from tests.rig.measure import Watch

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

_TCP = {"libvirt": {"live_migration_scheme": "tcp", "live_migration_trust_shared_storage": True}}


@pytest.mark.parametrize("shared", [True, False], ids=["shared storage", "own storage"])
def test_a_running_guest_goes_there_and_back_and_notices_nothing(
    pair: Callable[..., Pair], shared: bool
) -> None:
    both = pair(shared=shared, sections=_TCP)
    guest = both.spawn(0)
    with Watch(guest) as watch:
        for source, destination in ((0, 1), (1, 0)):
            migrate(both, guest.uuid, source, destination)
            assert guest.running_on() == [both.hosts[destination]] == guest.with_qemu()
            guest.wait_ticks(5)
            assert guest.on(both.hosts[source]).state == "absent"
            known = [len(sender.call("list_instance_uuids")["uuids"]) for sender in both.senders]
            assert known[destination] == 1
    assert not guest.troubles()
    assert watch.outage.ping_s < 30 and watch.outage.ticks_s < 30
    both.receiver.assert_gapless()
    newest = guest.last_tick().records
    guest.destroy()
    judged = guest.judge_disk(both.hosts[0])
    assert judged.lost == () and judged.newest >= newest


def migrate(both: Pair, uuid: str, source: int, destination: int) -> None:
    """Cast it, and wait for its end."""
    dest = both.agents[destination].host
    asked = both.senders[source].cast("migrate", instance_uuid=uuid, dest=dest, mode="live")
    both.receiver.succeeded(asked, 320)

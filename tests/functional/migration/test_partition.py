# SPDX-License-Identifier: Apache-2.0
"""The agents lose each other in the middle of a migration, for as long as the broker is away."""

from __future__ import annotations

from collections.abc import Callable

from tests.rig.broker import Broker
from tests.rig.pair import Pair
from tests.rig.process import wait_until


def test_a_guest_whose_agents_lose_each_other_is_held_until_they_meet_again(
    pair: Callable[..., Pair], broker: Broker
) -> None:
    both = pair(transfer_time=600)
    both.start()
    uuid = both.spawn()
    migration = both.migrate(uuid, timeout_s=1.0, policy={"on_timeout": "force"})
    wait_until(lambda: both.handshake(0, uuid)["phase"] == "moving", 60, "the transfer", both.evidence)
    broker.suspend()
    try:
        wait_until(lambda: _is_held(both, uuid), 60, "the guest to be held at both", both.evidence)
    finally:
        broker.resume()
    both.receiver.succeeded(migration, 120)
    assert both.side_of(uuid) == 1 and both.owner(uuid) == 1
    both.assert_never_two(uuid)


def _is_held(both: Pair, uuid: str) -> bool:
    here, there = (world.domains.get(uuid) for world in both.worlds())
    return (
        here is not None and there is not None and here.moved_to is not None and there.power.name == "PAUSED"
    )


def test_a_destination_that_is_away_is_waited_for_or_given_up(pair: Callable[..., Pair]) -> None:
    """It is killed before it hears anything: nothing is promised, so the guest stays; what it made goes."""
    both = pair()
    both.start()
    uuid = both.spawn()
    both.agents[1].kill()
    migration = both.migrate(uuid, timeout_s=2.0)
    assert both.receiver.failed(migration, 60)["data"]["error"]["code"] == "Timeout"
    both.receiver.succeeded(both.senders[0].cast("pause", instance_uuid=uuid))
    both.receiver.succeeded(both.senders[0].cast("unpause", instance_uuid=uuid))
    assert not both.handshake(0, uuid)["settled"], "the destination has to hear of it"
    both.agents[1].start()
    wait_until(lambda: both.handshake(0, uuid)["settled"], 60, "the destination's word", both.evidence)
    assert both.side_of(uuid) == 0 and both.owner(uuid) == 0


def test_a_guest_that_is_sent_while_its_agents_lose_each_other_arrives_when_they_meet_again(
    pair: Callable[..., Pair], broker: Broker
) -> None:
    both = pair(transfer_time=5)
    both.start()
    uuid = both.spawn()
    both.write(0, uuid, "before")
    migration = both.resize(uuid)
    wait_until(lambda: both.is_aside(0, uuid), 60, "the transfer", both.evidence)
    broker.suspend()
    try:
        wait_until(lambda: both.worlds()[0].directories[uuid].sent, 60, "its end", both.evidence)
        assert not any(uuid in world.domains for world in both.worlds())
    finally:
        broker.resume()
    both.receiver.succeeded(migration, 120)
    assert both.at_home(uuid) == both.owner(uuid) == 1
    assert both.content(1, uuid) == "before"
    both.assert_never_two(uuid)

# SPDX-License-Identifier: Apache-2.0
"""One queue, one agent: who comes second is refused, who was cut off comes back as soon as it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.process import wait_until
from tests.rig.proxy import Proxy
from tests.rig.sender import Sender

DEADLINE_S = 90.0
FAST_HEARTBEATS = {"oslo_messaging_rabbit": {"heartbeat_timeout_threshold": 4}}


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """The way to the broker that a test may break."""
    proxy = Proxy(broker.transport_url).start()
    yield proxy
    proxy.close()


def who_serves(broker: Broker, host: str) -> str:
    """The host_id of the agent that answers."""
    with Sender(broker.transport_url, host) as sender:
        return str(sender.call("ping", wait_s=DEADLINE_S)["as_of"]["host_id"])


def test_of_two_that_start_together_one_serves_and_the_other_ends(
    broker: Broker, agent: Callable[..., Agent]
) -> None:
    two = [agent(host="the-same", start=False) for _ in range(2)]
    for one in two:
        one.start(wait=False)
    wait_until(lambda: not all(one.running for one in two), DEADLINE_S, "an end", two[0].evidence)
    (serving,), (refused,) = [one for one in two if one.running], [one for one in two if not one.running]
    serving.wait_ready()
    host_id = who_serves(broker, serving.host)
    assert refused.returncode == 1
    assert not refused.notify.ready
    assert f"is served by the agent with host_id {host_id}" in refused.log_text()
    assert "reaching the hypervisor" not in refused.notify.values("STATUS")


def test_a_connection_that_only_seems_to_live_locks_its_own_agent_out_for_a_while_only(
    broker: Broker, agent: Callable[..., Agent], proxy: Proxy
) -> None:
    one = agent(transport_url=proxy.transport_url, sections=FAST_HEARTBEATS)
    host_id = who_serves(broker, one.host)
    proxy.vanish()
    wait_until(lambda: "is consumed again" in one.log_text(), DEADLINE_S, "it serves again", one.evidence)
    assert who_serves(broker, one.host) == host_id
    assert one.running


def test_whoever_was_cut_off_does_not_serve_beside_its_successor_and_says_so(
    broker: Broker, agent: Callable[..., Agent], proxy: Proxy
) -> None:
    first = agent(transport_url=proxy.transport_url, host="succeeded")
    old = who_serves(broker, first.host)
    proxy.refuse()
    proxy.cut()
    second = agent(host=first.host)
    new = who_serves(broker, second.host)
    assert new != old
    proxy.flow()
    first.notify.wait_status(f"served by the agent with host_id {new}", timeout=DEADLINE_S)
    assert {who_serves(broker, first.host) for _ in range(5)} == {new}
    second.stop()
    at = len(first.notify.values("STATUS"))
    wait_until(
        lambda: any("served by" not in status for status in first.notify.values("STATUS")[at:]),
        DEADLINE_S,
        "the first serves again",
        first.evidence,
    )
    assert who_serves(broker, first.host) == old

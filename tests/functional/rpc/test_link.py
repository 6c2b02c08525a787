# SPDX-License-Identifier: Apache-2.0
"""A link waits for nothing for ever, whenever the broker falls silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oslo_config import cfg
from oslo_messaging._drivers import impl_rabbit

from compute_agent.rpc import link
from compute_agent.rpc.names import EXCHANGE
from compute_agent.rpc.transport import create_transport
from tests.rig.broker import Broker
from tests.rig.process import wait_until
from tests.rig.proxy import Proxy

SOON_S = 0.3


@pytest.fixture
def proxy(broker: Broker, parts: Callable[[Proxy], Proxy]) -> Proxy:
    return parts(Proxy(broker.transport_url)).start()


@pytest.fixture
def transport(proxy: Proxy) -> Iterator[Any]:
    cfg.CONF([], project="compute-agent", default_config_files=[])
    made = create_transport(cfg.CONF, proxy.transport_url)
    yield made
    made.cleanup()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ANSWER_TIMEOUT_S", SOON_S)


def test_a_broker_that_falls_silent_before_the_channel_is_open_is_lost(
    transport: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_channel = impl_rabbit.Connection.ensure_connection

    def stall_first(connection: Any) -> None:
        proxy.stall()
        open_channel(connection)

    monkeypatch.setattr(impl_rabbit.Connection, "ensure_connection", stall_first)
    with pytest.raises(link.LOST):
        link.Link(transport)


def test_a_broker_that_answers_no_question_is_lost(transport: Any, proxy: Proxy) -> None:
    made = link.Link(transport)
    proxy.stall()
    with pytest.raises(link.LOST):
        made.declare_exchange(EXCHANGE)
    made.discard()


def test_a_connection_that_is_cut_is_lost_at_once(transport: Any, proxy: Proxy) -> None:
    made = link.Link(transport)
    proxy.cut()
    with pytest.raises(link.LOST):
        made.declare_exchange(EXCHANGE)
    made.discard()
    wait_until(lambda: proxy.connections == 0, what="the end of all connections")

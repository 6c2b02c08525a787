# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging still has what the wire uses of it that is not public; where transports lead."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import oslo_messaging
import pytest
from oslo_config import cfg
from oslo_messaging._drivers import amqpdriver, common, impl_rabbit, pool

from compute_agent.rpc import link
from compute_agent.rpc.transport import create_transport, describe


@pytest.fixture
def transport_of() -> Iterator[Callable[[str], Any]]:
    cfg.CONF([], project="compute-agent", default_config_files=[])
    made: list[Any] = []

    def make(url: str) -> Any:
        made.append(create_transport(cfg.CONF, url))
        return made[-1]

    yield make
    for one in made:
        one.cleanup()


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_names_that_are_not_public_are_there(transport_of: Callable[[str], Any]) -> None:
    driver = transport_of("rabbit://u:p@127.0.0.1:1/")._driver
    assert isinstance(driver, impl_rabbit.RabbitDriver)
    assert driver._url.hosts
    assert isinstance(driver._connection_pool, pool.ConnectionPool)
    assert driver._connection_pool.conf and driver._connection_pool.url
    assert parameters(impl_rabbit.Connection) == ["conf", "url", "purpose", "retry"]
    assert parameters(impl_rabbit.Connection.ensure_connection) == ["self"]
    assert common.PURPOSE_LISTEN
    assert driver._waiter is None
    assert parameters(driver._get_reply_q) == []
    assert parameters(amqpdriver.ReplyWaiter.wait)[1:] == [
        "msg_id",
        "timeout",
        "call_monitor_timeout",
        "reply_q",
    ]
    assert parameters(impl_rabbit._get_queue_arguments) == [
        "rabbit_ha_queues",
        "rabbit_queue_ttl",
        "rabbit_quorum_queue",
        "rabbit_quorum_queue_config",
        "rabbit_stream_fanout",
    ]
    assert {"on_blocked", "on_unblocked"} <= set(parameters(amqp.Connection))
    assert parameters(amqp.Connection.blocking_read)[1:] == ["timeout"]
    assert parameters(amqp.Channel.send_method)[1:4] == ["sig", "format", "args"]


def test_our_defaults_give_way_to_the_operators(transport_of: Callable[[str], Any]) -> None:
    options = transport_of("rabbit://h/?rabbit_qos_prefetch_count=20")._driver.conf.oslo_messaging_rabbit
    assert options.rabbit_qos_prefetch_count == 20
    assert options.rabbit_quorum_queue is True
    assert transport_of("rabbit://h/")._driver.conf.oslo_messaging_rabbit.rabbit_qos_prefetch_count == 64
    assert cfg.CONF.control_exchange == "compute_agent"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rabbit://u:secret@a:5671,u:secret@b/cloud", {"rabbit://a:5671,b:5672/cloud"}),
        ("rabbit://u:secret@a/", {"rabbit://a:5672/"}),
        ("rabbit://", {"rabbit://localhost:5672/"}),
    ],
)
def test_a_description_names_the_hosts_and_no_secret(
    transport_of: Callable[[str], Any], url: str, shown: set[str]
) -> None:
    assert describe(transport_of(url)) in shown


def test_a_broker_that_is_not_there_is_an_error_at_once(transport_of: Callable[[str], Any]) -> None:
    transport = transport_of("rabbit://u:p@127.0.0.1:1/")
    with pytest.raises(link.LOST):
        link.Link(transport)


def test_pauses_grow_to_the_operators_limit(transport_of: Callable[[str], Any]) -> None:
    back_off = link.BackOff(transport_of("rabbit://h/?rabbit_interval_max=3"))
    pauses = [back_off.next() for _ in range(10)]
    assert pauses[0] <= link.FIRST_PAUSE_S
    assert 1.5 <= pauses[-1] <= 3
    back_off.reset()
    assert back_off.next() <= link.FIRST_PAUSE_S


def test_a_thousand_agents_do_not_come_back_at_once(transport_of: Callable[[str], Any]) -> None:
    transport = transport_of("rabbit://h/?rabbit_interval_max=8&kombu_reconnect_splay=2")
    arrivals = []
    for _ in range(1000):
        back_off = link.BackOff(transport)
        arrivals.append(sum(back_off.next() for _ in range(6)))
    tenths = Counter(int(10 * arrival) for arrival in arrivals)
    assert max(arrivals) - min(arrivals) > 5
    assert max(tenths.values()) < 100  # of a thousand, in the same tenth of a second


def test_an_unreadable_url_is_refused(transport_of: Callable[[str], Any]) -> None:
    with pytest.raises(oslo_messaging.MessagingException):
        transport_of("carrier-pigeon://h/")

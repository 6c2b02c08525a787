# SPDX-License-Identifier: Apache-2.0
"""Replies are read by oslo.messaging's own client, typed errors too; a caller that is gone costs nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg

from compute_agent.model import errors
from compute_agent.rpc import envelope
from compute_agent.rpc.consumer import RawMessage
from compute_agent.rpc.names import EXCHANGE, MESSAGE_LIMIT, REPLY_LIMIT
from compute_agent.rpc.replies import Replier
from tests.functional.rpc.conftest import HOST
from tests.rig.broker import Broker

TARGET = oslo_messaging.Target(exchange=EXCHANGE, topic="compute", server=HOST, version="1.0")

Answer = Callable[..., None]


@pytest.fixture
def replier(transport: Any) -> Iterator[Replier]:
    made = Replier(transport)
    yield made
    made.close()


@pytest.fixture
def answer(consume: Callable[..., Any], replier: Replier) -> Answer:
    """Answer all calls from now on with a result or an error."""

    def serve(**reply: Any) -> None:
        def on_batch(messages: list[RawMessage]) -> None:
            for message in messages:
                request = envelope.parse(message.body, message.content_type, MESSAGE_LIMIT)
                message.ack()
                if request.is_call:
                    replier.reply(request.reply_q, request.msg_id, **reply)

        consume(on_batch)

    return serve


def test_an_oslo_client_gets_the_result(answer: Answer, transport: Any) -> None:
    answer(result={"a": [1, None, "ü"]})
    client = oslo_messaging.get_rpc_client(transport, TARGET, timeout=20)
    assert client.call({}, "ping") == {"a": [1, None, "ü"]}


def test_an_oslo_client_raises_our_error_with_its_fields(answer: Answer, transport: Any) -> None:
    answer(error=errors.HostBusy("too much", retry_after_s=2.5, hint="wait", evidence="queue", step="fetch"))
    client = oslo_messaging.get_rpc_client(transport, TARGET, timeout=20)
    with pytest.raises(errors.HostBusy) as caught:
        client.call({}, "ping")
    error = caught.value
    assert (error.message, error.retry_after_s, error.hint) == ("too much", 2.5, "wait")
    assert (error.evidence, error.step, error.retryable) == ("queue", "fetch", True)
    assert "Traceback" not in str(error)


def test_a_client_that_does_not_know_our_module_reads_class_and_message(
    answer: Answer, broker: Broker
) -> None:
    answer(error=errors.HostBusy("too much"))
    foreign = oslo_messaging.get_rpc_transport(cfg.CONF, broker.transport_url)
    client = oslo_messaging.get_rpc_client(foreign, TARGET, timeout=20)
    with pytest.raises(oslo_messaging.RemoteError) as caught:
        client.call({}, "ping")
    foreign.cleanup()
    assert (caught.value.exc_type, caught.value.value, caught.value.traceback) == ("HostBusy", "too much", [])


def test_a_reply_over_the_limit_is_an_error_to_its_caller(answer: Answer, transport: Any) -> None:
    answer(result={"text": "x" * (REPLY_LIMIT + 1)})
    client = oslo_messaging.get_rpc_client(transport, TARGET, timeout=20)
    with pytest.raises(errors.MessageTooLarge):
        client.call({}, "ping")


def test_a_reply_to_nobody_is_dropped_at_once_with_one_line(
    replier: Replier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    began = time.monotonic()
    assert not replier.reply("reply_gone", "1", result={})
    assert time.monotonic() - began < 10
    assert len([record for record in caplog.records if "reply_gone" in record.getMessage()]) == 1


def test_a_reply_survives_a_cut_connection(
    answer: Answer, transport: Any, replier: Replier, broker: Broker
) -> None:
    answer(result="here")
    client = oslo_messaging.get_rpc_client(transport, TARGET, timeout=20)
    assert client.call({}, "ping") == "here"
    broker.close_connections()
    assert not replier.reply("reply_gone", "1", result={})
    assert client.call({}, "ping") == "here"

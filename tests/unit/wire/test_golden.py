# SPDX-License-Identifier: Apache-2.0
"""The code reads and writes exactly the messages of ``docs/wire``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import msgspec
import pytest
from oslo_messaging._drivers import common

from compute_agent.model import clock, decode, errors
from compute_agent.model.arguments import Spawn
from compute_agent.model.event import EPHEMERAL, Event, EventType
from compute_agent.rpc import envelope, replies, sink
from compute_agent.rpc.names import ERROR_MODULES, EXCHANGE, MESSAGE_LIMIT
from compute_agent.rpc.sender import Sender
from tests.unit.wire import golden


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What differs between two publishings is that of the golden files."""

    def fix(message: dict[str, Any]) -> None:
        monkeypatch.setattr(envelope, "fresh_id", lambda: message["_unique_id"])
        if "message_id" in message:
            monkeypatch.setattr(sink.uuid, "uuid4", lambda: message["message_id"])
            monkeypatch.setattr(clock, "timestamp", lambda: message["timestamp"])

    return fix


@pytest.mark.parametrize("name", golden.NAMES)
def test_a_body_is_the_message_in_its_envelope(name: str) -> None:
    found = golden.read(name)
    outer = json.loads(found["body"])
    assert outer.keys() == {"oslo.version", "oslo.message"}
    assert outer["oslo.version"] == "2.0"
    assert json.loads(outer["oslo.message"]) == found["message"]


def parsed(found: dict[str, Any]) -> envelope.Request:
    return envelope.parse(found["body"].encode(), found["properties"]["content_type"], MESSAGE_LIMIT)


def test_the_cast_is_read() -> None:
    found = golden.read("cast.spawn")
    request = parsed(found)
    message = found["message"]
    assert (request.method, request.version) == ("spawn", "1.0")
    assert request.unique_id == message["_unique_id"]
    assert not request.is_call
    assert request.context == {
        name: message[f"_context_{name}"] for name in ("request_id", "project_id", "user_id")
    }
    arguments = decode.arguments(request.args, Spawn)
    assert arguments.operation_id == message["args"]["operation_id"]
    assert arguments.instance.flavor.memory_mb == 128
    arguments.instance.check()


def test_the_call_is_read() -> None:
    found = golden.read("call.ping")
    request = parsed(found)
    assert request.is_call
    assert (request.method, request.args) == ("ping", {})
    assert request.reply_q == found["message"]["_reply_q"]
    assert request.msg_id == found["message"]["_msg_id"]


@pytest.mark.parametrize("name", ["cast.spawn", "call.ping"])
def test_a_request_is_written(name: str, fixed: Any) -> None:
    found = golden.read(name)
    message = found["message"]
    fixed(message)
    context = {
        key.removeprefix("_context_"): value for key, value in message.items() if key.startswith("_context_")
    }
    more = {key: message[key] for key in ("_msg_id", "_reply_q", "_timeout") if key in message}
    made = envelope.request(message["method"], message["args"], context, **more)
    assert envelope.wrap(made).decode() == found["body"]


def sent(sender: mock.Mock, method: str) -> tuple[str, dict[str, Any]]:
    """The body of the one message that went to the broker, and where it went."""
    call = getattr(sender.return_value, method).call_args
    body = next(argument for argument in call.args if isinstance(argument, bytes))
    return body.decode(), call.kwargs


@pytest.fixture
def replier(monkeypatch: pytest.MonkeyPatch) -> tuple[replies.Replier, mock.Mock]:
    sender = mock.create_autospec(Sender)
    monkeypatch.setattr(replies, "Sender", sender)
    return replies.Replier(mock.sentinel.transport), sender


def test_an_answer_is_written(fixed: Any, replier: tuple[replies.Replier, mock.Mock]) -> None:
    found = golden.read("reply.ok")
    message = found["message"]
    fixed(message)
    replier[0].reply(found["routing_key"], message["_msg_id"], result=message["result"])
    body, where = sent(replier[1], "send_within")
    assert body == found["body"]
    assert (where["exchange"], where["routing_key"]) == (found["exchange"], found["routing_key"])


def test_a_failure_is_written(fixed: Any, replier: tuple[replies.Replier, mock.Mock]) -> None:
    found = golden.read("reply.failure")
    message = found["message"]
    fixed(message)
    error = errors.from_error(msgspec.convert(found["failure"]["kwargs"], errors.Error))
    replier[0].reply(found["routing_key"], message["_msg_id"], error=error)
    body, _where = sent(replier[1], "send_within")
    assert body == found["body"]


def test_a_client_of_oslo_messaging_makes_our_error_of_a_failure() -> None:
    message = golden.read("reply.failure")["message"]
    error = common.deserialize_remote_exception(message["failure"], ERROR_MODULES)
    assert isinstance(error, errors.InvalidState)
    assert "power_on can't start from paused" in error.message
    assert error.hint


def test_there_is_a_golden_event_of_every_type() -> None:
    assert {name.removeprefix("event.") for name in golden.EVENTS} == {kind.value for kind in EventType}


@pytest.mark.parametrize("name", golden.EVENTS)
def test_an_event_is_written(name: str, fixed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = golden.read(name)
    message = found["message"]
    fixed(message)
    event = msgspec.convert(message["payload"], Event)
    context = {
        key.removeprefix("_context_"): value for key, value in message.items() if key.startswith("_context_")
    }
    sender = mock.create_autospec(Sender)
    monkeypatch.setattr(sink, "Sender", sender)
    sink.BrokerSink(mock.sentinel.transport, event.host).publish(msgspec.to_builtins(event), context=context)
    body, where = sent(sender, "send")
    assert body == found["body"]
    assert (where["exchange"], where["routing_key"]) == (EXCHANGE, found["routing_key"])


@pytest.mark.parametrize("name", golden.EVENTS)
def test_an_ephemeral_event_has_no_place_of_its_own(name: str) -> None:
    payload = golden.read(name)["message"]["payload"]
    ephemeral = payload["type"] in EPHEMERAL
    assert (payload["seq"] is None) == ephemeral
    assert (payload["last_seq"] is not None) == ephemeral

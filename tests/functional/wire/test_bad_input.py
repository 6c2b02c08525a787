# SPDX-License-Identifier: Apache-2.0
"""What no sender should send: each gets its typed answer, nothing is lost, the agent goes on."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import RemoteError, Sender

IMAGE = Path("/images/any.qcow2")


def request(method: str, args: dict[str, Any], **more: Any) -> dict[str, Any]:
    return wire.request(method, args, {"request_id": "req-1"}, **more)


def rejected(receiver: Receiver, since: int) -> dict[str, Any]:
    event = receiver.wait_for(type="operation.rejected", since=since)
    assert event["operation_id"] is None
    return dict(event["data"]["error"])


@pytest.mark.parametrize(
    ("body", "properties", "code"),
    [
        (b"not json", {}, "InvalidArguments"),
        (b"", {}, "InvalidArguments"),
        (b"\xff\xfe\x00", {}, "InvalidArguments"),
        (b"[" * 100_000, {}, "InvalidArguments"),
        (b"{}", {"content_type": None}, "InvalidArguments"),
        (b"{}", {"content_type": "application/x-python-serialize"}, "InvalidArguments"),
        (b'{"oslo.version": "9.0", "oslo.message": "{}"}', {}, "UnsupportedVersion"),
        (b'{"oslo.version": "2.0", "oslo.message": "nonsense"}', {}, "InvalidArguments"),
        (b'{"oslo.version": "2.0", "oslo.message": "[]"}', {}, "InvalidArguments"),
    ],
    ids=[
        "text",
        "empty",
        "binary",
        "deep",
        "no-type",
        "pickle",
        "envelope-version",
        "inner-text",
        "inner-list",
    ],
)
def test_what_cannot_be_read_is_rejected(
    receiver: Receiver, to_fake_agent: Sender, body: bytes, properties: dict[str, Any], code: str
) -> None:
    since = receiver.mark()
    to_fake_agent.publish_raw(body, **properties)
    assert rejected(receiver, since)["code"] == code
    assert to_fake_agent.call("ping")["pong"]


def test_another_version_is_rejected_with_what_was_readable(
    receiver: Receiver, to_fake_agent: Sender
) -> None:
    operation_id = str(uuid.uuid4())
    message = request("spawn", {"operation_id": operation_id}) | {"version": "2.0"}
    since = receiver.mark()
    to_fake_agent.publish(message)
    assert rejected(receiver, since)["code"] == "UnsupportedVersion"
    told = receiver.wait_for(type="operation.rejected", since=since)
    assert told["data"]["message"]["method"] == "spawn"
    assert told["data"]["message"]["operation_id"] == operation_id


def test_a_50_mb_message_is_refused_by_its_size(
    receiver: Receiver, fake_agent: Agent, to_fake_agent: Sender
) -> None:
    before = fake_agent.peak_memory_kib()
    since = receiver.mark()
    to_fake_agent.publish_raw(b'{"oslo.version": "2.0", "oslo.message": "' + b"x" * 50_000_000 + b'"}')
    assert rejected(receiver, since)["code"] == "MessageTooLarge"
    assert fake_agent.peak_memory_kib() - before < 400_000
    assert to_fake_agent.call("ping")["pong"]


def test_the_same_bytes_a_hundred_times_are_one_operation(
    receiver: Receiver, agent: Any, sender: Any
) -> None:
    one = agent(sections={"oslo_messaging_rabbit": {"rabbit_qos_prefetch_count": 16}})
    to = sender(one)
    operation_id = str(uuid.uuid4())
    body = wire.envelope(request("spawn", {"operation_id": operation_id, "instance": describe(IMAGE)}))
    for _ in range(100):
        to.publish_raw(body)
    receiver.succeeded(operation_id)
    assert to.call("ping")["pong"]
    ends = [event for event in receiver.of_operation(operation_id) if event["type"] == "operation.succeeded"]
    assert len(ends) == 1
    assert len(to.call("list_instance_uuids")["uuids"]) == 1


@pytest.mark.parametrize(
    ("verb", "arguments", "code"),
    [
        ("dance", {}, "UnknownVerb"),
        ("pause", {}, "InvalidArguments"),
        ("pause", {"instance_uuid": 5}, "InvalidArguments"),
        ("pause", {"instance_uuid": "../../etc/passwd"}, "InvalidArguments"),
        ("pause", {"instance_uuid": str(uuid.uuid4()), "colour": "red"}, "InvalidArguments"),
        ("pause", {"instance_uuid": str(uuid.uuid4())}, "InstanceNotFound"),
        ("spawn", {"instance": describe(IMAGE, name="../x")}, "InvalidArguments"),
        ("spawn", {"instance": describe(IMAGE, name="a\x00b")}, "InvalidArguments"),
        ("spawn", {"instance": describe(IMAGE, name="<domain/>")}, "InvalidArguments"),
        ("spawn", {"instance": describe(IMAGE, name="a\n")}, "InvalidArguments"),
        ("spawn", {"instance": describe(IMAGE, flavor={"vcpus": 0, "memory_mb": 16})}, "InvalidArguments"),
        (
            "spawn",
            {"instance": describe(IMAGE, flavor={"vcpus": 10**9, "memory_mb": 16})},
            "InvalidArguments",
        ),
        ("spawn", {"instance": describe(IMAGE), "expires_at": "2020-01-01T00:00:00Z"}, "Expired"),
        ("spawn", {"instance": describe(IMAGE), "host_id": str(uuid.uuid4())}, "WrongHost"),
    ],
)
def test_a_wrong_request_fails_under_its_own_id_by_cast_and_by_call(
    receiver: Receiver, to_fake_agent: Sender, verb: str, arguments: dict[str, Any], code: str
) -> None:
    operation = to_fake_agent.cast(verb, **arguments)
    assert receiver.failed(operation)["data"]["error"]["code"] == code
    if code != "InstanceNotFound":  # that one shows at its turn, after the call was answered
        with pytest.raises(RemoteError) as caught:
            to_fake_agent.call(verb, operation_id=str(uuid.uuid4()), **arguments)
        assert caught.value.code == code


def test_no_traceback_leaves_the_agent(to_fake_agent: Sender) -> None:
    with pytest.raises(RemoteError) as caught:
        to_fake_agent.call("get_instance", instance_uuid=str(uuid.uuid4()))
    assert "Traceback" not in json.dumps(caught.value.failure)


def test_an_id_used_for_something_else_is_a_conflict_and_harms_nothing(
    receiver: Receiver, to_fake_agent: Sender
) -> None:
    operation_id = str(uuid.uuid4())
    first, other = describe(IMAGE), describe(IMAGE)
    to_fake_agent.cast("spawn", operation_id=operation_id, instance=first)
    receiver.succeeded(operation_id)
    to_fake_agent.cast("spawn", operation_id=operation_id, instance=other)
    conflict = receiver.wait_for(type="operation.rejected")
    assert conflict["data"]["error"]["code"] == "OperationConflict"
    assert to_fake_agent.call("list_instance_uuids")["uuids"] == [first["uuid"]]


def test_an_instance_that_is_here_is_not_made_again(receiver: Receiver, to_fake_agent: Sender) -> None:
    instance = describe(IMAGE, generation=3)
    receiver.succeeded(to_fake_agent.cast("spawn", instance=instance))
    again = receiver.failed(to_fake_agent.cast("spawn", instance=instance))
    assert again["data"]["error"]["code"] == "InstanceExists"
    stale = receiver.failed(to_fake_agent.cast("pause", instance_uuid=instance["uuid"], generation=2))
    assert stale["data"]["error"]["code"] == "StaleGeneration"
    assert to_fake_agent.call("get_instance", instance_uuid=instance["uuid"])["state"] == "active"


def test_tokens_are_dropped_and_the_rest_of_the_context_comes_back(
    receiver: Receiver, broker: Broker, fake_agent: Agent
) -> None:
    context = {"request_id": "req-7", "project_id": "p", "x_trace": "t", "auth_token": "s3cret"}
    with Sender(broker.transport_url, fake_agent.host, context) as sender:
        event = receiver.succeeded(sender.cast("spawn", instance=describe(IMAGE)))
    assert event["data"]["context"] == {"request_id": "req-7", "project_id": "p", "x_trace": "t"}
    assert event["request_id"] == "req-7"
    state = b"".join(path.read_bytes() for path in fake_agent.state_path.iterdir() if path.is_file())
    assert b"s3cret" not in state
    assert "s3cret" not in fake_agent.log_text()

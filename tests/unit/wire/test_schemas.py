# SPDX-License-Identifier: Apache-2.0
"""The schemas say what the agent's types say: complete, valid, as strict and as open as the agent."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from compute_agent.model import decode, errors, secrets
from compute_agent.model.arguments import VERBS
from compute_agent.model.descriptions import FIELDS
from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.questions import QUESTIONS
from compute_agent.model.schemas import NAMES, schema, schemas
from compute_agent.model.states import InstanceState
from tests.unit.wire import golden

ALL = schemas()
UUID = "0b7c5c8e-0000-4000-8000-000000000001"
INSTANCE: dict[str, Any] = {
    "uuid": UUID,
    "name": "instance-1",
    "flavor": {"vcpus": 1, "memory_mb": 64, "extra_specs": {"hw:cpu_policy": "shared"}},
    "image": {"url": "file:///images/a", "headers": {"X-Auth": "s3cret"}},
    "network_info": [{"id": "port-1", "address": "52:54:00:00:00:01", "bridge": "br0"}],
    "user_data": "aGVsbG8=",
}


def validate(name: str, value: Any) -> None:
    jsonschema.Draft202012Validator(ALL[name]).validate(value)


def definitions() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (f"{name}:{kind}.{field}", field, shape)
        for name, one in ALL.items()
        for kind, definition in one["$defs"].items()
        for field, shape in definition.get("properties", {}).items()
    ]


def test_there_is_one_for_every_verb_and_question_and_all_that_is_told() -> None:
    told = {"operation", "event", "error", "instance", "instance_record", "envelope", "message", "reply"}
    assert {*VERBS, *QUESTIONS, *told} <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(ALL[name])
    assert json.loads(json.dumps(ALL[name])) == ALL[name]


def test_every_field_says_what_it_means() -> None:
    assert [where for where, _, shape in definitions() if not shape.get("description")] == []


def test_no_description_is_left_over() -> None:
    used = {field for _, field, _ in definitions()}
    used |= {where.partition(":")[2] for where, _, _ in definitions()}
    assert set(FIELDS) - used == set()


@pytest.mark.parametrize("name", golden.NAMES)
def test_the_golden_messages_fit(name: str) -> None:
    found = golden.read(name)
    message = found["message"]
    validate("envelope", json.loads(found["body"]))
    if name.startswith("event."):
        validate("notification", message)
        validate("event", message["payload"])
    elif name.startswith("reply."):
        validate("reply", message)
    else:
        validate("message", message)
        validate(message["method"], message["args"])
    if "failure" in found:
        validate("failure", found["failure"])


@pytest.mark.parametrize("name", [name for name in golden.EVENTS if ".operation." in name])
def test_the_data_of_operation_events_is_the_record(name: str) -> None:
    data = golden.read(name)["message"]["payload"]["data"]
    validate("error" if "rejected" in name else "operation", data["error"] if "rejected" in name else data)


ARGUMENTS: list[tuple[str, dict[str, Any], bool]] = [
    ("spawn", {"instance": INSTANCE}, True),
    ("spawn", {"instance": INSTANCE, "x_tracing": {"id": 1}}, True),
    ("spawn", {"instance": {**INSTANCE, "x_owner": "me"}}, True),
    ("spawn", {"instance": {**INSTANCE, "owner": "me"}}, False),
    ("spawn", {}, False),
    ("spawn", {"instance": {**INSTANCE, "uuid": "../etc"}}, False),
    ("spawn", {"instance": {**INSTANCE, "flavor": {"vcpus": 0, "memory_mb": 1}}}, False),
    ("spawn", {"instance": INSTANCE, "injected_files": [["/etc/motd", "aGk="]]}, True),
    ("spawn", {"instance": INSTANCE, "injected_files": [["etc/motd", "aGk="]]}, False),
    ("power_off", {"instance_uuid": UUID, "timeout": 0}, True),
    ("power_off", {"instance_uuid": UUID, "timeout": -1}, False),
    ("power_off", {"instance_uuid": UUID, "timeout": "60"}, False),
    ("power_off", {"instance_uuid": UUID + "\n"}, False),
    ("reboot", {"instance_uuid": UUID, "reboot_type": "HARD"}, True),
    ("reboot", {"instance_uuid": UUID, "reboot_type": "hard"}, False),
    ("get_events", {"since": 4, "types": ["host.report"]}, True),
    ("get_events", {"limit": 100_000}, False),
    ("ping", {"loud": True}, False),
]


@pytest.mark.parametrize(("name", "arguments", "fits"), ARGUMENTS)
def test_a_schema_and_the_agent_agree_on_what_fits(name: str, arguments: dict[str, Any], fits: bool) -> None:
    found = jsonschema.Draft202012Validator(ALL[name]).is_valid(arguments)
    try:
        decode.arguments(arguments, {**VERBS, **QUESTIONS}[name])
    except errors.InvalidArguments:
        accepted = False
    else:
        accepted = True
    assert (found, accepted) == (fits, fits)


def test_secrets_are_marked() -> None:
    spawn = schema("spawn")["$defs"]
    assert spawn["Spawn"]["properties"]["admin_password"]["writeOnly"]
    assert spawn["Image"]["properties"]["headers"]["writeOnly"]
    assert "writeOnly" not in spawn["Image"]["properties"]["url"]


def test_a_record_as_it_is_told_fits_with_its_secrets_hidden_and_newer_fields() -> None:
    record = InstanceRecord(
        uuid=UUID,
        instance=msgspec.convert(INSTANCE, Instance),
        state=InstanceState.ACTIVE,
        created_at="2026-11-21T10:15:00.000000Z",
        updated_at="2026-11-21T10:15:00.000000Z",
    )
    told = secrets.redacted(record)
    assert told["instance"]["user_data"] == secrets.HIDDEN
    validate("instance_record", {**told, "as_of": {}, "instance": {**told["instance"], "newer": 1}})

# SPDX-License-Identifier: Apache-2.0
"""What the agent's log says of an operation: whose it is, on each line; and never a secret."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.rig.agent import Agent
from tests.rig.broker import Broker
from tests.rig.instance import describe
from tests.rig.receiver import Receiver
from tests.rig.sender import Sender

IMAGE = Path("/images/any.qcow2")
SECRETS = ("s3cret-password", "s3cret-token", "s3cret-header", "s3cret-data", "s3cret-file", "s3cret-chap")
SECRETS += ("s3cret-signature",)
ENTRY = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+ \d+ (?P<level>[A-Z]+) (?P<logger>\S+) (?P<rest>.*)$")


def entries(agent: Agent) -> list[dict[str, str]]:
    """The lines of the log that begin an entry."""
    found = (ENTRY.match(line) for line in agent.log_text().splitlines())
    return [match.groupdict() for match in found if match]


def test_each_line_of_an_operation_names_its_request_and_its_instance(
    receiver: Receiver, broker: Broker, agent: Callable[..., Agent]
) -> None:
    one = agent(sections={"fake": {"faults": "pause=fail:HypervisorError"}})
    instance = describe(IMAGE)
    uuid = instance["uuid"]
    with Sender(broker.transport_url, one.host) as sender:
        spawn = sender.cast("spawn", instance=instance)
        ids = {spawn: receiver.succeeded(spawn)["request_id"]}
        failing = [sender.cast("pause", instance_uuid=uuid) for _ in range(2)]
        ids |= {operation: receiver.failed(operation)["request_id"] for operation in failing}
    about = [entry for entry in entries(one) if uuid in entry["rest"] or any(i in entry["rest"] for i in ids)]
    ours = [entry for entry in about if entry["logger"].startswith("compute_agent.")]
    for operation, request in ids.items():
        lines = [entry for entry in ours if request in entry["rest"]]
        assert lines, f"no line of {operation} names its request"
        assert all(f"[instance: {uuid}]" in line["rest"] for line in lines), lines
    assert all(any(request in line["rest"] for request in ids.values()) for line in ours), ours


def test_no_secret_is_in_logs_events_or_answers_and_none_stays_in_the_journal(
    receiver: Receiver, broker: Broker, agent: Callable[..., Agent]
) -> None:
    one = agent()
    b64 = {name: base64.b64encode(f"s3cret-{name}".encode()).decode() for name in ("data", "file")}
    instance = describe(IMAGE, user_data=b64["data"])
    instance["image"]["headers"] = {"X-Auth-Token": "s3cret-header"}
    instance["image"]["url"] = "https://images.example.org/any.qcow2?X-Signature=s3cret-signature"
    instance["block_device_mapping"] = [_volume()]
    secrets: dict[str, Any] = {
        "admin_password": "s3cret-password",
        "injected_files": [["/etc/motd", b64["file"]]],
    }
    context = {"project_id": "p", "user_id": "u", "auth_token": "s3cret-token"}
    with Sender(broker.transport_url, one.host, context) as sender:
        operations = [sender.cast("spawn", instance=instance, **secrets)]
        receiver.end_of(operations[0])
        operations.append(sender.cast("spawn", instance=instance, **secrets))  # refused: it is there already
        operations.append(sender.cast("spawn", instance=instance | {"colour": "red"}, **secrets))
        operations.append(
            sender.cast("set_admin_password", instance_uuid=instance["uuid"], new_pass="s3cret-password")
        )
        for operation in operations:
            receiver.end_of(operation)
        told = [
            sender.call("get_instance", instance_uuid=instance["uuid"]),
            sender.call("get_snapshot"),
            sender.call("get_events"),
            *(sender.call("get_operation", operation_id=operation) for operation in operations),
        ]
    assert receiver.of_operation(operations[0])[-1]["type"] == "operation.succeeded"
    one.stop()
    forbidden = [*SECRETS, *b64.values()]
    seen = {
        "log": one.log_text(),
        "events": json.dumps(receiver.events),
        "answers": json.dumps(told),
    }
    assert not [(where, secret) for where, text in seen.items() for secret in forbidden if secret in text]
    journal = b"".join(path.read_bytes() for path in one.state_path.glob("state.db*"))
    assert not [s for s in ("s3cret-password", "s3cret-token", b64["file"]) if s.encode() in journal]
    assert "guest:guest@" not in one.log_text()


def _volume() -> dict[str, Any]:
    data = {"target_iqn": "iqn.2020-01.org.example:1", "auth_password": "s3cret-chap"}
    return {
        "source_type": "volume",
        "volume_id": "5c1ee0f2-5f0e-4b1c-9d68-7dc4d2a1d1c3",
        "connection_info": {"driver_volume_type": "iscsi", "data": data},
        "mountpoint": "/dev/vdb",
    }

# SPDX-License-Identifier: Apache-2.0
"""Every verb and question is a sub-command whose options are its arguments."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.cmd.client.parser import COMPOSED
from compute_agent.model import decode
from compute_agent.model.arguments import VERBS
from compute_agent.model.questions import QUESTIONS
from compute_agent.model.schemas import NAMES
from tests.unit.cmd.conftest import OPERATION, UUID, FakeApi, Run

INSTANCE = {"uuid": UUID, "flavor": {"vcpus": 1, "memory_mb": 64}, "kernel": "file:///vmlinuz"}
VOLUME = {"volume_id": "vol-1", "connection_info": {"driver_volume_type": "local"}}
REQUIRED: dict[str, list[str]] = {
    "spawn": ["--instance", json.dumps(INSTANCE)],
    "evacuate": ["--instance", json.dumps(INSTANCE), "--disks", "reuse", "--fenced"],
    "rebuild": ["--image", '{"url": "https://images/a"}'],
    "snapshot": ["--destination", '{"url": "https://images/b"}'],
    "attach_volume": ["--volume", json.dumps(VOLUME)],
    "detach_volume": ["--volume-id", "vol-1"],
    "swap_volume": ["--old-volume-id", "vol-1", "--volume", json.dumps(VOLUME)],
    "extend_volume": ["--volume-id", "vol-1", "--connection-info", "{}", "--size-gb", "2"],
    "volume_snapshot_create": ["--volume-id", "vol-1", "--create-info", "{}"],
    "volume_snapshot_delete": ["--volume-id", "vol-1", "--snapshot-id", "s-1", "--delete-info", "{}"],
    "attach_interface": ["--vif", '{"id": "port-1", "address": "52:54:00:00:00:01"}'],
    "detach_interface": ["--vif-id", "port-1"],
    "migrate": ["--dest", "node-2", "--mode", "live", "--no-block-migration"],
    "set_admin_password": ["--new-pass", "env:HOME"],
    "inject_file": ["--b64-path", "L2V0Yy9tb3Rk", "--b64-contents", "env:CONTENTS"],
    "change_instance_metadata": ["--diff", '{"a": ["+", "b"]}'],
    "balloon_memory": ["--memory-mb", "64"],
    "external_event": ["--name", "network-vif-plugged", "--tag", "port-1"],
    "cancel_operation": [OPERATION],
    "refresh_security_group_rules": ["--group-id", "g-1", "--rules", "[]"],
    "refresh_security_group_members": ["--group-id", "g-1", "--members", "[]"],
    "refresh_instance_security_rules": ["--security-groups", '[{"id": "g-1"}]'],
    "refresh_provider_fw_rules": ["--rules", "[]"],
    "destroy_orphan": ["orphan-1"],
    "set_host_enabled": ["--no-enabled", "--reason", "repairs"],
    "host_maintenance_mode": ["--mode", "on"],
    "host_power_action": ["--action", "reboot"],
    "confirm_instances": ["--instance-uuids", f"{UUID},{OPERATION}"],
    "get_operation": [OPERATION],
    "block_stats": ["--disk-id", "vda"],
    "interface_stats": ["--iface-id", "tap0"],
    "check_parameters": ["--instance", json.dumps(INSTANCE)],
    "validate_parameters": ["--instance", json.dumps(INSTANCE)],
    "plan": ["--verb", "pause", "--arguments", f'{{"instance_uuid": "{UUID}"}}'],
}


def required(name: str) -> list[str]:
    kind: Any = {**VERBS, **QUESTIONS}[name]
    about = "instance_uuid" in kind.__struct_fields__ and name not in (
        "get_info",
        "list_operations",
        "get_events",
    )
    return [*([UUID] if about else []), *REQUIRED.get(name, [])]


@pytest.mark.parametrize("name", [*VERBS, *QUESTIONS])
def test_what_is_required_is_enough(
    name: str, run: Callable[..., Run], api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTENTS", "aGVsbG8=")
    done = run(name.replace("_", "-"), *required(name))
    assert (done.status, done.err) == (0, "")
    (way, asked, arguments) = api.asked[0]
    assert (way, asked) == ("call" if name in VERBS else "ask", name)
    decode.arguments(arguments, {**VERBS, **QUESTIONS}[name])


@pytest.mark.parametrize("name", [name for name in [*VERBS, *QUESTIONS] if required(name)])
def test_less_is_wrong_usage(name: str, run: Callable[..., Run], api: FakeApi) -> None:
    done = run(name.replace("_", "-"))
    assert done.status == 2
    assert "usage: compute-agentctl" in done.err
    assert api.asked == []


@pytest.mark.parametrize("name", [*VERBS, *QUESTIONS, *COMPOSED])
def test_every_command_has_help(name: str, run: Callable[..., Run]) -> None:
    done = run(name.replace("_", "-"), "--help")
    assert (done.status, done.err) == (0, "")
    kind: Any = {**VERBS, **QUESTIONS}.get(name)
    for field in kind.__struct_fields__ if kind else ():
        assert f"--{field.replace('_', '-')}" in done.out or field.upper() in done.out


def test_all_commands_are_listed_with_a_line_each(run: Callable[..., Run]) -> None:
    text = run("--help").out
    for name in [*VERBS, *QUESTIONS, *COMPOSED]:
        assert f"    {name.replace('_', '-')}" in text
    assert "Make an instance and start it" in text


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--timeout", "0"], "timeout", 0.0),
        (["--timeout-s", "1.5"], "timeout_s", 1.5),
        (["--generation", "7"], "generation", 7),
        (["--host-id", UUID], "host_id", UUID),
        (["--expires-at", "2027-01-01T00:00:00Z"], "expires_at", "2027-01-01T00:00:00Z"),
    ],
)
def test_options_have_the_types_of_the_fields(
    options: list[str], field: str, value: object, run: Callable[..., Run], api: FakeApi
) -> None:
    assert run("power-off", UUID, *options).status == 0
    arguments = api.asked[0][2]
    assert arguments[field] == value
    assert arguments.keys() == {"instance_uuid", "operation_id", field}


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-verb"],
        [],
        ["power-off", UUID, "--timeout", "soon"],
        ["power-off", UUID, "--no-such-option"],
        ["reboot", UUID, "--reboot-type", "GENTLE"],
        ["attach-volume", UUID, "--volume", "{not json"],
        ["attach-volume", UUID, "--volume", "@/no/such/file"],
        ["pause", UUID, "--expires-at", "tomorrow"],
        ["pause", UUID, "--expires-at", "2027-01-01T00:00:00"],
        ["list-instances", "--state", "asleep"],
        ["--format", "yaml", "ping"],
    ],
)
def test_wrong_usage(arguments: list[str], run: Callable[..., Run], api: FakeApi) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert "error: " in done.err
    assert api.asked == []


def test_the_agents_own_options_stand_before_or_after(run: Callable[..., Run]) -> None:
    before = run("--host", "a", "--timeout", "3", "--transport-url", "rabbit://", "--format", "json", "ping")
    after = run("ping", "--host", "a", "--timeout", "3", "--transport-url", "rabbit://", "--format", "json")
    assert before.settings == after.settings
    assert before.settings is not None
    assert (before.settings.host, before.settings.timeout, before.settings.as_json) == ("a", 3.0, True)


def test_after_a_verb_an_option_of_its_own_name_is_the_verbs(run: Callable[..., Run], api: FakeApi) -> None:
    done = run("--timeout", "3", "power-off", UUID, "--timeout", "9")
    assert done.settings is not None
    assert done.settings.timeout == 3.0
    assert api.asked[0][2]["timeout"] == 9.0


def test_expiry_may_be_counted_from_now(run: Callable[..., Run], api: FakeApi) -> None:
    assert run("pause", UUID, "--expires-at", "+60").status == 0
    assert api.asked[0][2]["expires_at"].endswith("Z")


def test_a_structure_may_come_from_a_file(
    run: Callable[..., Run], api: FakeApi, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(INSTANCE))
    assert run("spawn", "--instance", f"@{path}").status == 0
    assert api.asked[0][2]["instance"] == INSTANCE


def test_lists_take_commas_and_repetition(run: Callable[..., Run], api: FakeApi) -> None:
    run("get-events", "--types", "host.hello,host.problem", "--types", "host.enabled")
    assert api.asked[0][2]["types"] == ["host.hello", "host.problem", "host.enabled"]


def test_schemas_are_told_without_an_agent(run: Callable[..., Run]) -> None:
    done = run("schema", "power-off")
    assert done.settings is None
    assert done.json["title"] == "power_off"
    assert run("schema").out.split() == list(NAMES)
    assert run("schema", "nothing").status == 2


def modules_after(code: str) -> set[str]:
    """Which modules a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_help_is_there_before_the_messaging_library() -> None:
    code = "from compute_agent.cmd import ctl\ntry: ctl.main(['spawn', '--help'])\nexcept SystemExit: pass"
    assert modules_after(code).isdisjoint(
        {"oslo_messaging", "oslo_config.cfg", "eventlet", "kombu", "sqlite3"}
    )


def test_the_process_has_no_greenthreads() -> None:
    code = (
        "from compute_agent.cmd.client import connection, session\n"
        "connection.connect(session.Settings(host='h', transport_url='rabbit://a:b@127.0.0.1:1/'))\n"
        "import threading, time, socket\n"
        "assert 'eventlet' not in threading.Thread.start.__module__ + socket.socket.__module__\n"
    )
    loaded = modules_after(code)
    assert "oslo_messaging" in loaded
    assert loaded.isdisjoint({"compute_agent.concurrency", "compute_agent.manager", "compute_agent.store"})

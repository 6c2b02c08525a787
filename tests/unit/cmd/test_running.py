# SPDX-License-Identifier: Apache-2.0
"""What the command sends, shows and exits with."""

from __future__ import annotations

import base64
import inspect
import io
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from compute_agent.cmd.client import following, values
from compute_agent.cmd.client.session import Api, Session, Settings
from compute_agent.model import errors
from compute_agent.rpc import ComputeAPI
from compute_agent.rpc.client import BrokerUnavailable, HostNotFound, NoAnswer, NotEnded
from tests.unit.cmd.conftest import AS_OF, OPERATION, UUID, FakeApi, Run, operation

FAILURE = {"code": "DiskFull", "message": "no room", "step": "fetch", "retryable": True, "hint": "make room"}


def test_the_fake_agent_is_like_the_real_one() -> None:
    for name in ("cast", "call", "ask", "wait", "close"):
        fake, real = (
            list(inspect.signature(getattr(kind, name)).parameters) for kind in (FakeApi, ComputeAPI)
        )
        assert fake == real
        assert hasattr(Api, name)


# --- verbs -----------------------------------------------------------------------------------------


def test_a_verb_is_called_with_an_id(run: Callable[..., Run], api: FakeApi) -> None:
    done = run("pause", UUID, "--format", "json")
    assert done.status == 0
    assert done.json == operation()
    (way, name, arguments) = api.asked[0]
    assert (way, name, arguments["instance_uuid"]) == ("call", "pause", UUID)
    assert len(arguments["operation_id"]) == len(OPERATION)
    assert api.closed


def test_a_cast_tells_its_id(run: Callable[..., Run], api: FakeApi) -> None:
    done = run("pause", UUID, "--cast", "--operation-id", OPERATION, "--format", "json")
    assert done.json == {"operation_id": OPERATION}
    assert api.asked[0][0] == "cast"


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (operation("succeeded"), 0),
        (operation("failed", error=FAILURE), 1),
        (operation("cancelled", error={**FAILURE, "code": "Cancelled"}), 3),
        (operation("failed", error={**FAILURE, "code": "Timeout"}), 4),
    ],
    ids=lambda value: value if isinstance(value, int) else value["state"],
)
def test_waiting_ends_with_the_operations_end(
    record: dict[str, Any], status: int, run: Callable[..., Run], api: FakeApi
) -> None:
    api.records = [operation("running", step="fetch"), record]
    done = run("pause", UUID, "--wait", "--operation-id", OPERATION)
    assert done.status == status
    assert record["state"] in done.out
    assert "pause  running  fetch" in done.err
    assert api.waited == [(OPERATION, None)]


def test_a_failed_operation_shows_its_error(run: Callable[..., Run], api: FakeApi) -> None:
    api.records = [operation("failed", error=FAILURE)]
    text = run("pause", UUID, "--wait").err
    assert "DiskFull: no room" in text
    assert "step: fetch" in text
    assert "hint: make room" in text
    done = run("pause", UUID, "--wait", "--format", "json")
    assert (done.error["code"], done.error["hint"]) == ("DiskFull", "make room")
    assert done.json["error"] == FAILURE


def test_an_operation_that_was_done_before_exits_as_it_ended(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["pause"] = operation("failed", error=FAILURE)
    assert run("pause", UUID).status == 1


def test_giving_up_waiting(run: Callable[..., Run], api: FakeApi) -> None:
    api.records = [NotEnded(f"operation {OPERATION} has not ended", operation("running"))]
    done = run("pause", UUID, "--wait-timeout", "2")
    assert done.status == 4
    assert "running" in done.out
    assert "NotEnded" in done.err
    assert "operations watch" in done.err
    (_, left) = api.waited[0]
    assert left is not None
    assert 0 < left <= 2
    assert done.settings is not None
    assert done.settings.timeout == 2


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (errors.InstanceNotFound("no such instance"), "InstanceNotFound", "list_instances"),
        (HostNotFound("no agent serves host 'x'"), "HostNotFound", "--host"),
        (BrokerUnavailable("OSError: refused"), "BrokerUnavailable", "broker"),
    ],
)
def test_errors_name_themselves_and_what_to_do(
    error: Exception, code: str, hint: str, run: Callable[..., Run], api: FakeApi
) -> None:
    api.answers["get_instance"] = error
    done = run("get-instance", UUID)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"{code}: ")
    assert hint in done.err
    assert run("get-instance", UUID, "--format", "json").error["code"] == code


def test_a_bug_is_no_error_of_the_user(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["ping"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        run("ping")
    assert api.closed


def test_a_verb_without_an_answer_is_still_in_the_queue(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["pause"] = NoAnswer("node-1 did not answer")
    done = run("pause", UUID, "--operation-id", OPERATION)
    assert done.status == 1
    assert f"operations show {OPERATION}" in done.err


def test_waiting_goes_on_though_the_agent_did_not_answer(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["pause"] = NoAnswer("node-1 did not answer")
    assert run("pause", UUID, "--wait", "--operation-id", OPERATION).status == 0
    assert api.waited == [(OPERATION, None)]


def test_a_conflict_is_told_though_it_was_to_be_waited_for(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["pause"] = errors.OperationConflict("used before")
    done = run("pause", UUID, "--wait")
    assert (done.status, api.waited) == (1, [])


def test_wrong_arguments_are_typed_and_nothing_is_sent(run: Callable[..., Run], api: FakeApi) -> None:
    done = run("pause", "../etc/passwd", "--format", "json")
    assert (done.status, done.error["code"], api.asked) == (1, "InvalidArguments", [])
    assert "instance_uuid" in done.error["message"]


def test_interrupting_does_not_undo(run: Callable[..., Run], api: FakeApi) -> None:
    api.records = [KeyboardInterrupt()]
    done = run("pause", UUID, "--wait")
    assert done.status == 130
    assert "goes on" in done.err


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    command = f"{sys.executable} -m compute_agent.cmd.ctl schema spawn | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{", "")


# --- secrets ---------------------------------------------------------------------------------------


def test_a_password_comes_from_a_file(run: Callable[..., Run], api: FakeApi, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    done = run("set-admin-password", UUID, "--new-pass", f"@{path}")
    assert api.asked[0][2]["new_pass"] == "s3cret"
    assert "s3cret" not in done.out + done.err


def test_a_password_comes_from_the_environment(
    run: Callable[..., Run], api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUEST_PASSWORD", "s3cret")
    run("set-admin-password", UUID, "--new-pass", "env:GUEST_PASSWORD")
    assert api.asked[0][2]["new_pass"] == "s3cret"
    assert run("set-admin-password", UUID, "--new-pass", "env:NOT_SET").status == 2


def test_a_password_comes_from_a_prompt(
    run: Callable[..., Run], api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    answers = ["s3cret", "s3cret", "one", "another"]
    monkeypatch.setattr(values.sys, "stdin", Terminal())
    monkeypatch.setattr(values.getpass, "getpass", lambda _prompt: answers.pop(0))
    assert run("set-admin-password", UUID, "--new-pass", "ask").status == 0
    assert api.asked[0][2]["new_pass"] == "s3cret"
    assert run("set-admin-password", UUID, "--new-pass", "ask").status == 2


def test_a_prompt_may_be_left(run: Callable[..., Run], api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "_asked", lambda _name: (_ for _ in ()).throw(KeyboardInterrupt))
    done = run("set-admin-password", UUID, "--new-pass", "ask")
    assert (done.status, api.asked) == (130, [])


def test_a_password_on_the_command_line_is_remarked_upon(run: Callable[..., Run]) -> None:
    done = run("set-admin-password", UUID, "--new-pass", "s3cret")
    assert done.status == 0
    assert "list of processes" in done.err
    assert "s3cret" not in done.out + done.err


# --- spawn in short --------------------------------------------------------------------------------


def test_an_instance_from_a_few_options(
    run: Callable[..., Run], api: FakeApi, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "data").write_text("#cloud-config\n")
    done = run(
        *("spawn", "--image", "https://images/debian.qcow2", "--vcpus", "2", "--memory-mb", "256"),
        *("--root-gb", "3", "--name", "web-1", "--uuid", UUID, "--bridge", "br0"),
        *("--bridge", "br1,52:54:00:00:00:01", "--metadata", "role=web", "--start-paused"),
        *("--user-data", f"@{tmp_path / 'data'}", "--ssh-key", "ssh-ed25519 AAAA me"),
    )
    assert (done.status, done.err) == (0, "")
    made = api.asked[0][2]["instance"]
    assert made["uuid"] == UUID
    assert made["flavor"] == {"vcpus": 2, "memory_mb": 256, "root_gb": 3}
    assert made["image"] == {"url": "https://images/debian.qcow2", "disk_format": "qcow2"}
    assert [vif["bridge"] for vif in made["network_info"]] == ["br0", "br1"]
    assert made["network_info"][0]["address"].startswith("52:54:00:")
    assert made["network_info"][1]["address"] == "52:54:00:00:00:01"
    assert made["metadata"] == {"role": "web"}
    assert made["start_paused"] is True
    assert base64.b64decode(made["user_data"]) == b"#cloud-config\n"
    assert made["ssh_keys"] == ["ssh-ed25519 AAAA me"]


def test_what_is_not_given_has_a_default(run: Callable[..., Run], api: FakeApi) -> None:
    run("spawn", "--kernel", "file:///vmlinuz")
    made = api.asked[0][2]["instance"]
    assert made["flavor"] == {"vcpus": 1, "memory_mb": 512}
    assert len(made["uuid"]) == len(UUID)


def test_short_options_change_a_described_instance(run: Callable[..., Run], api: FakeApi) -> None:
    described = {"uuid": UUID, "flavor": {"vcpus": 1, "memory_mb": 64, "root_gb": 1}, "kernel": "file:///k"}
    run("spawn", "--instance", json.dumps(described), "--memory-mb", "128")
    assert api.asked[0][2]["instance"]["flavor"] == {"vcpus": 1, "memory_mb": 128, "root_gb": 1}


def test_an_instance_has_to_boot_something(run: Callable[..., Run], api: FakeApi) -> None:
    done = run("spawn", "--vcpus", "1")
    assert (done.status, api.asked) == (2, [])
    assert "--image" in done.err


# --- questions -------------------------------------------------------------------------------------


def test_all_pages(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["list_instances"] = [
        {"instances": [{"uuid": "a"}], "next_marker": UUID},
        {"instances": [{"uuid": "b"}], "next_marker": None},
    ]
    done = run("list-instances", "--all", "--format", "json")
    assert [record["uuid"] for record in done.json["instances"]] == ["a", "b"]
    assert api.asked[1][2]["marker"] == UUID


def test_info_of_one_or_of_all(run: Callable[..., Run], api: FakeApi) -> None:
    run("get-info", UUID)
    run("get-info")
    assert [arguments for _, _, arguments in api.asked] == [{"instance_uuid": UUID}, {}]


def test_console_output_is_shown_as_it_is_but_steers_no_terminal(
    run: Callable[..., Run], api: FakeApi
) -> None:
    api.answers["get_console_output"] = {
        "output": "Debian\r\n\x1b]0;owned\x07login: ",
        "bytes": 28,
        "as_of": AS_OF,
    }
    done = run("get-console-output", UUID)
    assert "Debian\n" in done.out
    assert "login:" in done.out
    assert "\x1b" not in done.out
    assert "\x07" not in done.out


# --- operations ------------------------------------------------------------------------------------


def test_operations_are_listed(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["list_operations"] = {"operations": [operation("running")], "next_marker": None}
    done = run("operations", "list", "--state", "running", "--instance", UUID, "--limit", "5")
    assert api.asked[0][2] == {"state": "running", "instance_uuid": UUID, "limit": 5}
    assert OPERATION in done.out
    assert "OPERATION_ID" in done.out


def test_an_operation_is_shown(run: Callable[..., Run], api: FakeApi) -> None:
    api.answers["get_operation"] = operation("running")
    assert run("operations", "show", OPERATION, "--format", "json").json["state"] == "running"
    assert api.asked[0] == ("ask", "get_operation", {"operation_id": OPERATION})


def test_an_operation_is_cancelled(run: Callable[..., Run], api: FakeApi) -> None:
    assert run("operations", "cancel", OPERATION).status == 0
    assert api.asked[0][:2] == ("call", "cancel_operation")
    assert api.asked[0][2]["target"] == OPERATION


def test_an_operation_is_watched(run: Callable[..., Run], api: FakeApi) -> None:
    api.records = [operation("cancelled")]
    assert run("operations", "watch", OPERATION, "--wait-timeout", "7").status == 3
    assert api.waited == [(OPERATION, 7.0)]


@pytest.mark.parametrize("arguments", [["operations"], ["operations", "burn"], ["operations", "show"]])
def test_operations_need_an_action(arguments: list[str], run: Callable[..., Run]) -> None:
    assert run(*arguments).status == 2


# --- progress --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("no file")


def test_a_terminal_gets_a_bar(api: FakeApi) -> None:
    progress = {"done": 50, "total": 200, "unit": "MiB", "eta_s": 3.0}
    api.records = [operation("running", step="fetch", progress=progress), operation("succeeded")]
    session = Session(Settings(), lambda _settings: api, out=io.StringIO(), err=Terminal())
    assert following.follow(session, OPERATION, None) == 0
    drawn = session.err.getvalue()
    assert "[######..................]  25 % pause  running  fetch  50/200 MiB  3 s to go" in drawn
    assert drawn.endswith("\r\x1b[K")


def test_elsewhere_a_line_tells_of_each_change(run: Callable[..., Run], api: FakeApi) -> None:
    def at(done: int) -> dict[str, Any]:
        return operation("running", step="fetch", progress={"done": done, "total": 100, "unit": "MiB"})

    api.records = [operation("accepted", queue_position=2), at(1), at(2), at(51), operation("succeeded")]
    lines = run("pause", UUID, "--wait").err.splitlines()
    assert len(lines) == 4
    assert "2 before it" in lines[0]
    assert "51/100 MiB" in lines[2]

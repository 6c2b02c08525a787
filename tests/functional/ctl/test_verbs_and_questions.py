# SPDX-License-Identifier: Apache-2.0
"""`compute-agentctl` with an agent that serves real guests: every verb once, every question, every error."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.functional.ctl.conftest import Ctl, Done, run
from tests.functional.serving import Served
from tests.rig import domain
from tests.rig.broker import Broker


class Hasty(Ctl):
    """A person who has told the environment which agent is meant."""

    def __init__(self, served: Served, broker: Broker) -> None:
        url = broker.transport_url
        super().__init__(COMPUTE_AGENT_HOST=served.agent.host, COMPUTE_AGENT_TRANSPORT_URL=url)

    def all(self, lines: list[list[str]]) -> list[Done]:
        """Several commands, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda line: self(*line), lines))


@pytest.fixture(scope="module")
def ctl(served: Served, broker: Broker) -> Hasty:
    return Hasty(served, broker)


@pytest.fixture(scope="module")
def guest(served: Served) -> str:
    """A guest for the questions."""
    return served.spawn(display_name="asked")


# --- verbs -------------------------------------------------------------------------------------------


def test_a_guests_life_from_the_command_line(ctl: Hasty, served: Served) -> None:
    instance = str(uuid.uuid4())
    image = served.describe()["image"]["url"]
    spawned = ctl("spawn", "--uuid", instance, "--image", image, "--memory-mb", "16", "--wait")
    assert spawned.status == 0, spawned
    assert "succeeded" in spawned.out
    guest = served.guest(instance)
    guest.wait_console("Hello")
    for line, state in (
        (["pause"], "paused"),
        (["unpause"], "running"),
        (["suspend"], "shutoff"),
        (["resume"], "running"),
        (["reboot", "--reboot-type", "HARD"], "running"),
        (["reboot", "--reboot-type", "SOFT"], "running"),
        (["power-off", "--timeout", "30", "--retry-interval", "1"], "shutoff"),
        (["power-on"], "running"),
        (["power-off", "--timeout", "0"], "shutoff"),
        (["soft-delete"], "shutoff"),
        (["restore"], "running"),
        (["update-instance", "--metadata", '{"role": "web"}'], "running"),
        (["forget"], "running"),
        (["adopt"], "running"),
        (["destroy"], "absent"),
    ):
        done = ctl(line[0], instance, *line[1:], "--wait")
        assert (line, done.status, guest.state) == (line, 0, state), done
    assert served.left_of(instance) == []


def test_verbs_on_the_host_from_the_command_line(ctl: Hasty, served: Served) -> None:
    stranger = str(uuid.uuid4())
    xml = domain.plain_domain(served.hypervisor.images.raw(stranger), Path("/dev/null"), uuid=stranger)
    connection = served.hypervisor.connect()
    connection.defineXML(xml)
    connection.close()
    (found,) = [orphan["id"] for orphan in ctl.json("list-orphans")["orphans"] if stranger in orphan["id"]]
    assert ctl("destroy-orphan", found, "--wait").status == 0
    assert stranger not in served.hypervisor.domains()
    assert ctl("set-host-enabled", "--no-enabled", "--reason", "maintenance", "--wait").status == 0
    assert ctl.json("verify")["reasons"] == {"operator": "maintenance"}
    refused = ctl("spawn", "--image", served.describe()["image"]["url"], "--memory-mb", "16", "--wait")
    assert (refused.status, "HostDisabled" in refused.err) == (1, True)
    assert ctl("set-host-enabled", "--enabled", "--wait").status == 0
    assert ctl("confirm-instances", "--instance-uuids", stranger, "--wait").status == 0


def test_what_the_driver_can_not_do_says_so(ctl: Hasty, guest: str) -> None:
    done = ctl("trigger-crash-dump", guest, "--wait")
    assert done.status == 1
    assert done.err.startswith("UnsupportedOperation: ") or "\nUnsupportedOperation: " in done.err


def test_without_wait_it_ends_when_the_agent_has_the_verb(ctl: Hasty, served: Served, guest: str) -> None:
    record = ctl.json("pause", guest)
    assert (record["verb"], record["instance_uuid"]) == ("pause", guest)
    served.receiver.succeeded(record["operation_id"])
    cast = ctl.json("unpause", guest, "--cast")
    served.receiver.succeeded(cast["operation_id"])
    assert served.guest(guest).state == "running"


# --- errors ------------------------------------------------------------------------------------------


def test_an_error_has_its_code_and_a_hint_and_status_1(ctl: Hasty, served: Served) -> None:
    missing = (served.hypervisor.images_path / "missing.raw").as_uri()
    plain = ctl("spawn", "--image", missing, "--memory-mb", "16", "--wait")
    assert plain.status == 1
    assert "ImageUnavailable: " in plain.err
    assert "step: image" in plain.err
    nobody = str(uuid.uuid4())
    told = ctl("--format", "json", "pause", nobody, "--wait")
    assert (told.status, told.json["state"]) == (1, "failed")
    assert told.json["error"]["code"] == "InstanceNotFound"
    found = ctl("pause", nobody, "--wait")
    assert found.status == 1
    assert "InstanceNotFound: " in found.err


def test_a_hint_is_shown_below_the_error(ctl: Hasty, served: Served) -> None:
    instance = served.describe()
    instance["flavor"] = {"vcpus": 1, "memory_mb": 2**26}
    done = ctl("spawn", "--instance", json.dumps(instance), "--wait")
    assert done.status == 1
    lines = done.err.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("InsufficientResources: ")]
    assert any(line.startswith("  hint: ") for line in lines[at + 1 :])


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["get-instance", "not-a-uuid"], "InvalidArguments", 1),
        (["get-instance", str(uuid.uuid4())], "InstanceNotFound", 1),
        (["operations", "show", str(uuid.uuid4())], "OperationNotFound", 1),
        (["--host", "nobody", "--timeout", "3", "ping"], "HostNotFound", 1),
        (
            ["--transport-url", "rabbit://guest:guest@127.0.0.1:1/", "--timeout", "3", "ping"],
            "BrokerUnavailable",
            1,
        ),
    ],
    ids=["arguments", "instance", "operation", "host", "broker"],
)
def test_what_goes_wrong_is_told_in_a_typed_line(
    ctl: Hasty, arguments: list[str], code: str, status: int
) -> None:
    plain = ctl(*arguments)
    assert (plain.status, plain.out) == (status, "")
    assert plain.err.startswith(f"{code}: ")
    told = ctl("--format", "json", *arguments)
    assert (told.status, told.error["code"]) == (status, code)
    if code in ("HostNotFound", "BrokerUnavailable"):
        assert told.error["hint"]
        assert "  hint: " in plain.err


@pytest.mark.parametrize("arguments", [[], ["dance"], ["pause"], ["spawn"], ["--format", "xml", "ping"]])
def test_wrong_usage_is_status_2(ctl: Hasty, arguments: list[str]) -> None:
    assert ctl(*arguments).status == 2


# --- questions ---------------------------------------------------------------------------------------


def test_every_question_is_answered(ctl: Hasty, served: Served, guest: str, tmp_path: Path) -> None:
    """Also those that this driver can't answer: they say so, and no question hangs or stumbles."""
    described = tmp_path / "instance.json"
    described.write_text(json.dumps(served.describe()))
    arguments: dict[str, list[str]] = {
        "plan": ["--verb", "destroy", "--arguments", json.dumps({"instance_uuid": guest})],
        "check_parameters": ["--instance", f"@{described}"],
        "validate_parameters": ["--instance", f"@{described}"],
        "block_stats": [guest, "--disk-id", "vda"],
        "interface_stats": [guest, "--iface-id", "none"],
        "get_operation": [ctl.json("operations", "list", "--limit", "1")["operations"][0]["operation_id"]],
        "get_info": [guest],
    }
    about_instance = {
        "get_instance",
        "explain",
        "get_console_output",
        "get_vnc_console",
        "get_spice_console",
        "get_serial_console",
        "get_diagnostics",
        "get_instance_diagnostics",
        "get_instance_disk_info",
        "get_migration_status",
    }
    questions = ctl.json("get-version")["questions"]
    lines = [
        [
            "--format",
            "json",
            name.replace("_", "-"),
            *arguments.get(name, [guest] if name in about_instance else []),
        ]
        for name in questions
    ]
    unanswered = {}
    for name, done in zip(questions, ctl.all(lines), strict=True):
        if done.status == 0:
            assert done.json["as_of"]["host"] == served.agent.host, name
        else:
            unanswered[name] = done.error["code"]
    allowed = {"UnsupportedOperation", "InvalidArguments"}
    assert set(unanswered.values()) <= allowed, unanswered
    assert unanswered.keys().isdisjoint(
        {
            "ping",
            "get_version",
            "get_instance",
            "list_instances",
            "list_instance_uuids",
            "get_info",
            "explain",
        }
        | {"get_operation", "list_operations", "get_events", "get_snapshot", "list_orphans", "plan", "verify"}
        | {"get_available_resource", "get_host_uptime", "get_console_output", "get_per_instance_usage"}
    ), unanswered


def test_answers_for_people(ctl: Hasty, served: Served, guest: str) -> None:
    served.guest(guest).wait_console("Hello")
    asked = [
        ["get-instance", guest],
        ["get-console-output", guest],
        ["list-instances"],
        ["ping"],
        ["top", "--once"],
    ]
    instance, console, listed, ping, top = ctl.all(asked)
    assert {done.status for done in (instance, console, listed, ping, top)} == {0}
    assert "active" in instance.out
    assert "Hello" in console.out
    for done in (listed, top):
        assert guest in done.out
    for done in (ping, top):
        assert served.agent.host in done.out
    assert ctl.json("top", "--once")["instances"]


def test_the_schema_of_a_verb_needs_no_agent() -> None:
    listed = run("ctl", "schema")
    assert "spawn" in listed.out.splitlines()
    shown = run("ctl", "schema", "power-off")
    assert "instance_uuid" in json.dumps(shown.json)
    assert run("ctl", "schema", "nonsense").status == 2


def test_where_the_agent_is_comes_from_its_configuration_too(served: Served) -> None:
    done = run("ctl", "--config-file", served.agent.config_file, "--format", "json", "ping")
    assert (done.status, done.json["as_of"]["host"]) == (0, served.agent.host)
    nowhere = run("ctl", "ping")
    assert nowhere.status == 1
    assert nowhere.err.startswith("SettingsError: ")

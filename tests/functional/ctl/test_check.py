# SPDX-License-Identifier: Apache-2.0
"""`compute-agent --check-config` and `compute-agent-status check`, before and beside a running agent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.functional.ctl.conftest import Done, run
from tests.functional.serving import Served
from tests.rig.agent import Agent
from tests.rig.broker import Broker

CLOSED = 0o640


def check_config(config_file: Path) -> Done:
    return run("agent", "--config-file", config_file, "--check-config", cwd=config_file.parent)


def changed(served: Served, tmp_path: Path, pattern: str, replacement: str) -> Path:
    """The agent's configuration with a change."""
    text, number = re.subn(pattern, replacement, served.agent.config_file.read_text(), count=1, flags=re.M)
    assert number == 1
    path = tmp_path / "changed.conf"
    path.write_text(text)
    path.chmod(CLOSED)
    return path


def test_a_good_configuration_can_be_used_while_the_agent_runs(served: Served) -> None:
    done = check_config(served.agent.config_file)
    assert (done.status, done.err) == (0, "")
    assert "can be used" in done.out
    assert served.agent.running


@pytest.mark.parametrize(
    ("pattern", "replacement", "named"),
    [
        (r"^\[DEFAULT\]$", "[DEFAULT]\nmax_concurrent_builds = 0", "max_concurrent_builds"),
        (r"^\[DEFAULT\]$", "[DEFAULT]\non_host_boot = dance", "on_host_boot"),
        (r"^\[libvirt\]$", "[libvirt]\nvirt_typ = kvm", "virt_typ"),
        (r"^\[libvirt\]$", "[libvrt]", "libvrt"),
        (r"^virt_type = .*$", "virt_type = vmware", "virt_type"),
        (r"^host = .*$", "host = ../etc", "host"),
    ],
)
def test_what_is_wrong_is_named(
    served: Served, tmp_path: Path, pattern: str, replacement: str, named: str
) -> None:
    done = check_config(changed(served, tmp_path, pattern, replacement))
    assert done.status == 1
    assert named in done.err


def test_a_file_that_is_not_there_or_no_configuration(tmp_path: Path) -> None:
    assert check_config(tmp_path / "missing.conf").status == 78
    wrong = tmp_path / "wrong.conf"
    wrong.write_text("this is no configuration\n")
    done = check_config(wrong)
    assert done.status == 78
    assert str(wrong) in done.err


def test_the_agent_does_not_start_with_a_wrong_value(broker: Broker) -> None:
    agent = Agent(broker, sections={"DEFAULT": {"max_concurrent_builds": 0}})
    try:
        agent.start(wait=False)
        assert agent.wait_end() == 78
        assert not agent.notify.ready
    finally:
        agent.close()


# --- is this host fit? -------------------------------------------------------------------------------


def status(path: Path) -> dict[str, Any]:
    """What was found, by level; the exit status is that of the worst."""
    done = run("status", "check", "--config-file", path, "--format", "json")
    found = done.json["findings"]
    levels = ["ok", "warning", "error"]
    assert done.status == max(levels.index(one["level"]) for one in found), done
    assert all(one["remedy"] for one in found if one["level"] != "ok")
    return {level: [one for one in found if one["level"] == level] for level in levels}


def test_a_host_with_a_running_agent_is_fit(served: Served) -> None:
    served.agent.config_file.chmod(CLOSED)
    found = status(served.agent.config_file)
    assert found["error"] == []
    well = {one["about"] for one in found["ok"]}
    assert well >= {"configuration", "host", "state_path", "instances_path", "libvirt", "qemu-img", "broker"}
    told = " ".join(one["message"] for one in found["ok"])
    assert f"compute.{served.agent.host} is served" in told
    assert "an agent runs on this state directory" in told
    plain = run("status", "check", "--config-file", served.agent.config_file)
    assert "OK " in plain.out
    assert served.sender.call("ping")["pong"]


@pytest.mark.parametrize(
    ("pattern", "replacement", "about", "level"),
    [
        (r"^transport_url = .*$", "transport_url = rabbit://guest:guest@127.0.0.1:1/", "broker", "error"),
        (r"^transport_url = rabbit://[^@]*@", "transport_url = rabbit://guest:wrong@", "broker", "error"),
        (r"^connection_uri = .*$", "connection_uri = qemu+unix:///system?socket=/none", "libvirt", "error"),
        (r"^host = .*$", "host = another", "host", "error"),
        (r"^state_path = .*$", "state_path = /proc/nowhere/state", "state_path", "error"),
        (r"^\[DEFAULT\]$", "[DEFAULT]\nmax_concurrent_builds = 0", "configuration", "error"),
    ],
    ids=["broker-away", "password", "libvirt", "host", "state", "value"],
)
def test_what_the_host_lacks_is_named_with_its_remedy(
    served: Served, tmp_path: Path, pattern: str, replacement: str, about: str, level: str
) -> None:
    found = status(changed(served, tmp_path, pattern, replacement))
    assert about in {one["about"] for one in found[level]}


def test_a_configuration_that_everyone_can_read_is_a_warning(served: Served, tmp_path: Path) -> None:
    path = changed(served, tmp_path, r"^host = (.*)$", r"host = \1")
    path.chmod(0o644)
    found = status(path)
    assert found["error"] == []
    assert "configuration" in {one["about"] for one in found["warning"]}

# SPDX-License-Identifier: Apache-2.0
"""Where the command finds the agent: options before the environment before the configuration file."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
from compute_agent.cmd.client import connection, problems, session
try:
    api = connection.connect(session.Settings(**json.loads(sys.argv[1])))
except problems.SettingsError as error:
    print("SettingsError", error)
else:
    from compute_agent.rpc import describe
    print(api.host, describe(api._transport), api.timeout)
"""


def found(settings: str, **environment: str) -> str:
    """What a fresh process connects to; the messaging library's options are global to a process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COMPUTE_AGENT_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, settings],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=clean | environment,
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def config_file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "agent.conf"
    path.write_text("[DEFAULT]\nhost = of-file\ntransport_url = rabbit://a:b@file:1/\n")
    return path


def test_options_are_enough() -> None:
    settings = '{"host": "h", "transport_url": "rabbit://a:b@option:1/", "timeout": 3}'
    assert found(settings) == "h rabbit://option:1/ 3"


def test_the_environment_is_enough() -> None:
    environment = {"COMPUTE_AGENT_HOST": "e", "COMPUTE_AGENT_TRANSPORT_URL": "rabbit://a:b@environment:1/"}
    assert found("{}", **environment) == "e rabbit://environment:1/ 30.0"
    assert found('{"host": "h"}', **environment) == "h rabbit://environment:1/ 30.0"


def test_a_configuration_file_is_enough(config_file: pathlib.Path) -> None:
    assert found(f'{{"config_file": "{config_file}"}}') == "of-file rabbit://file:1/ 30.0"


def test_a_configuration_file_that_is_named_wins_over_the_environments_broker(
    config_file: pathlib.Path,
) -> None:
    seen = found(
        f'{{"config_file": "{config_file}"}}', COMPUTE_AGENT_TRANSPORT_URL="rabbit://a:b@environment:1/"
    )
    assert seen == "of-file rabbit://file:1/ 30.0"


def test_without_a_broker_it_says_so() -> None:
    assert "which broker?" in found('{"host": "h"}')


def test_without_a_host_it_says_so() -> None:
    assert "which host?" in found('{"transport_url": "rabbit://a:b@option:1/"}')

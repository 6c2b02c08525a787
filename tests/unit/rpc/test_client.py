# SPDX-License-Identifier: Apache-2.0
"""The client has a method for every verb and question, which takes what the verb takes."""

from __future__ import annotations

import datetime
import inspect
import subprocess
import sys
from typing import Any

import msgspec
import oslo_messaging
import pytest

from compute_agent.model import errors
from compute_agent.model.arguments import VERBS
from compute_agent.model.questions import QUESTIONS
from compute_agent.rpc import ComputeAPI, client, replies

INSTANCE = "6f1fdd3c-7b0e-4f0e-9d5c-0c5b2a4f7a10"


@pytest.mark.parametrize(("name", "kind"), [*VERBS.items(), *QUESTIONS.items()])
def test_there_is_a_method_of_each_name_with_the_fields_as_parameters(name: str, kind: type[Any]) -> None:
    method = inspect.getattr_static(ComputeAPI, name)
    parameters = inspect.signature(method).parameters
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    assert set(parameters) == {"self", *fields}
    for field in fields.values():
        assert (parameters[field.name].default is inspect.Parameter.empty) == field.required
    assert name in method.__doc__


def test_types_of_ours_may_be_given_as_arguments() -> None:
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    plain = client._checked("pause", VERBS, {"instance_uuid": INSTANCE, "expires_at": moment})
    assert plain == {"instance_uuid": INSTANCE, "expires_at": "2026-01-01T00:00:00Z"}


def rebuilt(error: errors.ComputeError, modules: list[str]) -> Exception:
    """The error as oslo.messaging's client makes it again."""
    from oslo_messaging._drivers.common import deserialize_remote_exception

    made: Exception = deserialize_remote_exception(replies.failure(error), modules)
    return made


@pytest.mark.parametrize("kind", list(errors.ComputeError.by_code.values()), ids=str)
def test_every_error_crosses_the_wire(kind: type[errors.ComputeError]) -> None:
    error = kind("why", step="fetch", retryable=True, retry_after_s=1.5, hint="do", evidence="log")
    remote = rebuilt(error, ["compute_agent.model.errors"])
    assert isinstance(remote, kind)
    plain = client._typed(remote)
    assert type(plain) is kind
    assert isinstance(plain, errors.ComputeError)
    assert plain.to_error() == error.to_error()


def test_an_error_is_known_by_its_name_where_our_module_is_not_allowed() -> None:
    remote = rebuilt(errors.HostBusy("later"), [])
    assert isinstance(remote, oslo_messaging.RemoteError)
    plain = client._typed(remote)
    assert type(plain) is errors.HostBusy
    assert plain.message == "later"


def test_the_client_does_not_patch_the_process() -> None:
    """A scheduler imports it and keeps its native threads."""
    code = (
        "import threading, socket; lock, sock = threading.Lock, socket.socket; import compute_agent.rpc; "
        "assert threading.Lock is lock and socket.socket is sock; import sys; "
        "assert 'compute_agent.concurrency' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

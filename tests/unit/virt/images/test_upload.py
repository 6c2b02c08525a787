# SPDX-License-Identifier: Apache-2.0
"""A file is put to a server: whole, to the very server that was allowed, and again if that makes sense."""

from __future__ import annotations

import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import upload
from compute_agent.virt.images.upload import Upload
from compute_agent.virt.images.web import Target
from tests.rig.webserver import Answer, Handler, WebServer, certificate, redirect, send

CONTENTS = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENTS).hexdigest()

Put = Callable[..., str]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, on_the_hub: None) -> None:
    """New attempts come at once."""
    monkeypatch.setattr(upload, "RETRY_S", 0.0)


@pytest.fixture
def put(tmp_path: pathlib.Path) -> Iterator[Put]:
    """Put CONTENTS to a url; what comes back is the hash."""
    path = tmp_path / "contents"
    path.write_bytes(CONTENTS)
    fd = os.open(path, os.O_RDONLY)
    pool = concurrency.NativePool("test", 2)

    def act(url: str, **headers: str) -> str:
        return Upload(Target(url=url, headers=headers, inner=True), fd, len(CONTENTS), pool.call).run()

    yield act
    pool.close()
    os.close(fd)


class Store:
    """What came to a server, whole bodies only."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def take(self, status: int = 201) -> Answer:
        def answer(handler: Handler) -> None:
            self.bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
            send(b"", status=status)(handler)

        return answer


def hang_up(handler: Handler) -> None:
    """Break off in the middle of the body."""
    handler.rfile.read(1000)
    handler.close_connection = True
    handler.connection.shutdown(2)


def refuse_early(handler: Handler) -> None:
    """Answer before the body has come, and go."""
    send(b"too large", status=413)(handler)
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer() as made:
        yield made


def test_a_file_arrives_whole_with_its_length(server: WebServer, put: Put) -> None:
    store = Store()
    server.answers["/copy"] = store.take()
    assert put(f"{server.root}/copy") == DIGEST
    assert store.bodies == [CONTENTS]
    headers = server.requests[0][1]
    assert headers["Content-Length"] == str(len(CONTENTS))
    assert headers["Content-Type"] == "application/octet-stream"


def test_a_connection_that_breaks_is_made_again_and_the_hash_is_right(server: WebServer, put: Put) -> None:
    store = Store()
    server.answers["/copy"] = [hang_up, store.take(503), store.take()]
    assert put(f"{server.root}/copy") == DIGEST
    assert store.bodies == [CONTENTS, CONTENTS]


def test_a_server_that_is_out_of_order_for_long_is_given_up(server: WebServer, put: Put) -> None:
    server.answers["/copy"] = Store().take(503)
    with pytest.raises(errors.ImageUnavailable) as caught:
        put(f"{server.root}/copy")
    assert caught.value.retryable
    assert len(server.requests) == CONF.images.download_retries + 1


def test_a_server_that_refuses_before_all_has_come_is_heard(server: WebServer, put: Put) -> None:
    server.answers["/copy"] = refuse_early
    with pytest.raises(errors.ImageUnavailable):
        put(f"{server.root}/copy")


def test_a_redirect_is_not_followed_and_no_secret_leaks(server: WebServer, put: Put) -> None:
    server.answers["/copy"] = redirect(f"{server.root}/elsewhere")
    with pytest.raises(errors.ImageUnavailable):
        put(f"{server.root}/copy", **{"X-Auth-Token": "w0rd"})
    assert server.paths == ["/copy"]


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding", "Expect"])
def test_headers_that_are_the_agents_are_refused(server: WebServer, put: Put, name: str) -> None:
    with pytest.raises(errors.ImageUnavailable):
        put(f"{server.root}/copy", **{name: "x"})
    assert server.requests == []


def test_a_server_of_tls_is_checked(tmp_path: pathlib.Path, put: Put) -> None:
    store = Store()
    with WebServer(certificate=certificate(tmp_path)) as server:
        server.answers["/copy"] = store.take()
        with pytest.raises(errors.ImageUnavailable) as caught:
            put(f"{server.root}/copy")
        assert not caught.value.retryable
        CONF.set_override("ca_file", str(tmp_path / "cert.pem"), group="images")
        try:
            assert put(f"{server.root}/copy") == DIGEST
        finally:
            CONF.clear_override("ca_file", group="images")
    assert store.bodies == [CONTENTS]


def test_a_server_that_falls_silent_ends_with_the_deadline(server: WebServer, put: Put) -> None:
    server.answers["/copy"] = lambda handler: server.ended.wait(60) and None
    with steps.working(steps.Work("one", deadline=time.monotonic() + 0.5)), pytest.raises(errors.Timeout):
        put(f"{server.root}/copy")


def test_a_server_that_takes_too_little_is_given_up(server: WebServer, put: Put) -> None:
    server.answers["/copy"] = lambda handler: server.ended.wait(60) and None
    CONF.set_override("download_timeout", 1.0, group="images")
    CONF.set_override("download_retries", 0, group="images")
    try:
        with pytest.raises(errors.ImageUnavailable) as caught:
            put(f"{server.root}/copy")
    finally:
        CONF.clear_override("download_timeout", group="images")
        CONF.clear_override("download_retries", group="images")
    assert caught.value.retryable


def test_progress_is_told(server: WebServer, put: Put) -> None:
    server.answers["/copy"] = Store().take()
    seen: list[int] = []
    work = steps.Work("one", on_change=lambda work: work.progress and seen.append(work.progress.done))
    with steps.working(work):
        put(f"{server.root}/copy")
    assert seen[-1] == len(CONTENTS)

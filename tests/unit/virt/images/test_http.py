# SPDX-License-Identifier: Apache-2.0
"""Images over HTTP: whole or not at all, and only from where they may come."""

from __future__ import annotations

import http.server
import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.virt.images import fetch
from compute_agent.virt.images.cache import ImageCache
from tests.unit.virt.images import hostile
from tests.unit.virt.images.conftest import cached_files

CONTENTS = hostile.boot_sector(300_000)
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """An HTTP server on this machine. ``answers`` says how each path is answered."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, dict(self.headers)))
                try:
                    outer.answers[self.path](self)
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    made = Server()
    CONF.set_override("allowed_sources", [f"{made.root}/public/"], group="images")
    yield made
    CONF.clear_override("allowed_sources", group="images")
    made.close()


def send(
    body: bytes, *, status: int = 200, length: int | None = -1, headers: dict[str, str] | None = None
) -> Answer:
    """Answer with ``body``; a ``length`` of -1 is its own, None is none."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length is not None:
            handler.send_header("Content-Length", str(len(body) if length == -1 else length))
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(location: str) -> Answer:
    return send(b"", status=302, headers={"Location": location})


def image(server: Server, path: str = "/public/image", **fields: object) -> Image:
    return Image(url=server.root + path, **fields)  # type: ignore[arg-type]


def refused(cache: ImageCache, wanted: Image) -> errors.ImageUnavailable:
    with pytest.raises(errors.ImageUnavailable) as caught:
        cache.ensure(wanted)
    assert cached_files(cache) == []
    return caught.value


@pytest.mark.parametrize("length", [-1, None])
def test_an_image_comes_over_http(length: int | None, server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, length=length)
    made = cache.ensure(image(server))
    assert pathlib.Path(made.path).read_bytes() == CONTENTS
    assert cache.ensure(image(server)) == made
    assert len(server.requests) == 1


def test_an_answer_that_ends_too_early_is_refused(server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, length=len(CONTENTS) + 1000)
    assert refused(cache, image(server)).retryable


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (500, True), (503, True)])
def test_a_status_other_than_ok_is_refused(
    status: int, retryable: bool, server: Server, cache: ImageCache
) -> None:
    server.answers["/public/image"] = send(b"no", status=status)
    assert refused(cache, image(server)).retryable is retryable


def test_a_server_that_is_not_there_is_told(server: Server, cache: ImageCache) -> None:
    server.close()
    assert refused(cache, image(server)).retryable


def test_a_redirect_to_an_allowed_place_is_followed(server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = redirect("/public/real")
    server.answers["/public/real"] = send(CONTENTS)
    assert cache.ensure(image(server)).virtual_size == len(CONTENTS)


@pytest.mark.parametrize(
    "location", ["/private/image", "file:///etc/passwd", "http://169.254.169.254/public/", "//evil.invalid/x"]
)
def test_a_redirect_to_another_place_is_refused(location: str, server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = redirect(location)
    server.answers["/private/image"] = send(CONTENTS)
    refused(cache, image(server))
    assert [path for path, _ in server.requests] == ["/public/image"]


def test_redirects_without_end_are_refused(server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = redirect("/public/image")
    refused(cache, image(server))
    assert len(server.requests) == fetch.REDIRECTS + 1


def test_headers_are_sent_to_the_origin_alone(server: Server, cache: ImageCache) -> None:
    other = Server()
    try:
        CONF.set_override("allowed_sources", ["http://"], group="images")
        server.answers["/public/image"] = redirect(f"{other.root}/image")
        other.answers["/image"] = send(CONTENTS)
        cache.ensure(image(server, headers={"X-Auth-Token": "secret"}))
        assert server.requests[0][1]["X-Auth-Token"] == "secret"
        assert "X-Auth-Token" not in other.requests[0][1]
    finally:
        other.close()


def test_an_encoded_answer_is_refused(server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, headers={"Content-Encoding": "gzip"})
    refused(cache, image(server))


def test_an_empty_answer_is_refused(server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(b"")
    refused(cache, image(server))


@pytest.mark.parametrize("length", [-1, None])
def test_more_than_was_told_is_refused(length: int | None, server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, length=length)
    refused(cache, image(server, size_bytes=1000))


def test_an_answer_that_claims_to_be_huge_is_refused_at_once(server: Server, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(b"x", length=2**60)
    with pytest.raises(errors.ImageTooLarge):
        cache.ensure(image(server))


def test_a_server_that_answers_byte_by_byte_ends_with_the_deadline(server: Server, cache: ImageCache) -> None:
    ended = threading.Event()

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.02):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    server.answers["/public/image"] = drip
    try:
        with steps.working(steps.Work("one", deadline=time.monotonic() + 0.3)), pytest.raises(errors.Timeout):
            cache.ensure(image(server))
    finally:
        ended.set()
    assert cached_files(cache) == []


def test_a_server_that_falls_silent_is_given_up(server: Server, cache: ImageCache) -> None:
    ended = threading.Event()

    def stop(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x")
        ended.wait(10)

    server.answers["/public/image"] = stop
    CONF.set_override("download_timeout", 1, group="images")
    try:
        assert refused(cache, image(server)).retryable
    finally:
        ended.set()
        CONF.clear_override("download_timeout", group="images")

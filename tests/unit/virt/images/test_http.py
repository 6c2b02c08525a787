# SPDX-License-Identifier: Apache-2.0
"""Images over HTTP: whole or not at all, and only from where they may come."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator

import pytest

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.image import Image
from compute_agent.virt.images import addresses, download, stream, web
from compute_agent.virt.images.cache import CachedImage, ImageCache
from tests.rig.webserver import Answer, WebServer, certificate, chunked, ranged, redirect, send
from tests.unit.virt.images import hostile
from tests.unit.virt.images.conftest import cached_files

CONTENTS = hostile.boot_sector(300_000)
OTHER = hostile.boot_sector(300_000)[::-1]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, on_the_hub: None) -> None:
    """New attempts come at once."""
    monkeypatch.setattr(download, "RETRY_S", 0.0)


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[WebServer]:
    made = WebServer()
    CONF.set_override("allowed_sources", [f"{made.root}/public/"], group="images")
    yield made
    CONF.clear_override("allowed_sources", group="images")
    made.close()


def image(server: WebServer, path: str = "/public/image", **fields: object) -> Image:
    return Image(url=server.root + path, **fields)  # type: ignore[arg-type]


def contents(image: CachedImage) -> bytes:
    return pathlib.Path(image.path).read_bytes()


def refused(cache: ImageCache, wanted: Image) -> errors.ImageUnavailable:
    with pytest.raises(errors.ImageUnavailable) as caught:
        cache.ensure(wanted)
    assert cached_files(cache) == []
    return caught.value


@pytest.mark.parametrize("length", [-1, None])
def test_an_image_comes_over_http(length: int | None, server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, length=length)
    made = cache.ensure(image(server))
    assert pathlib.Path(made.path).read_bytes() == CONTENTS
    assert cache.ensure(image(server)) == made
    assert len(server.requests) == 1


def test_an_answer_that_ends_too_early_is_refused(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, length=len(CONTENTS) + 1000)
    assert refused(cache, image(server)).retryable


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (500, True), (503, True)])
def test_a_status_other_than_ok_is_refused(
    status: int, retryable: bool, server: WebServer, cache: ImageCache
) -> None:
    server.answers["/public/image"] = send(b"no", status=status)
    assert refused(cache, image(server)).retryable is retryable


def test_a_server_that_is_not_there_is_told(server: WebServer, cache: ImageCache) -> None:
    server.close()
    assert refused(cache, image(server)).retryable


def test_a_redirect_to_an_allowed_place_is_followed(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = redirect("/public/real")
    server.answers["/public/real"] = send(CONTENTS)
    assert cache.ensure(image(server)).virtual_size == len(CONTENTS)


@pytest.mark.parametrize(
    "location", ["/private/image", "file:///etc/passwd", "http://169.254.169.254/public/", "//evil.invalid/x"]
)
def test_a_redirect_to_another_place_is_refused(location: str, server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = redirect(location)
    server.answers["/private/image"] = send(CONTENTS)
    refused(cache, image(server))
    assert [path for path, _ in server.requests] == ["/public/image"]


def test_redirects_without_end_are_refused(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = redirect("/public/image")
    refused(cache, image(server))
    assert len(server.requests) == web.REDIRECTS + 1


def test_headers_are_sent_to_the_origin_alone(server: WebServer, cache: ImageCache) -> None:
    other = WebServer()
    try:
        CONF.set_override("allowed_sources", [server.root, other.root], group="images")
        server.answers["/public/image"] = redirect(f"{other.root}/image")
        other.answers["/image"] = send(CONTENTS)
        cache.ensure(image(server, headers={"X-Auth-Token": "secret"}))
        assert server.requests[0][1]["X-Auth-Token"] == "secret"
        assert "X-Auth-Token" not in other.requests[0][1]
    finally:
        other.close()


def test_an_encoded_answer_is_refused(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, headers={"Content-Encoding": "gzip"})
    refused(cache, image(server))


def test_an_empty_answer_is_refused(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(b"")
    refused(cache, image(server))


@pytest.mark.parametrize("length", [-1, None])
def test_more_than_was_told_is_refused(length: int | None, server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, length=length)
    refused(cache, image(server, size_bytes=1000))


def test_an_answer_that_claims_to_be_huge_is_refused_at_once(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(b"x", length=2**60)
    with pytest.raises(errors.ImageTooLarge):
        cache.ensure(image(server))


def test_a_server_that_answers_byte_by_byte_ends_with_the_deadline(
    server: WebServer, cache: ImageCache
) -> None:
    server.answers["/public/image"] = server.drip(b"x")
    with steps.working(steps.Work("one", deadline=time.monotonic() + 0.3)), pytest.raises(errors.Timeout):
        cache.ensure(image(server))
    assert cached_files(cache) == []


@pytest.fixture
def impatient() -> Iterator[None]:
    """A second is long enough."""
    CONF.set_override("download_timeout", 1, group="images")
    yield
    CONF.clear_override("download_timeout", group="images")


@pytest.mark.usefixtures("impatient")
def test_a_server_that_falls_silent_is_given_up(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = server.fall_silent(b"x", 1000)
    CONF.set_override("download_retries", 0, group="images")
    try:
        assert refused(cache, image(server)).retryable
    finally:
        CONF.clear_override("download_retries", group="images")


@pytest.mark.parametrize("part", ["body", "head"])
@pytest.mark.usefixtures("impatient")
def test_a_server_that_answers_slowly_for_ever_is_given_up(
    part: str, server: WebServer, cache: ImageCache
) -> None:
    server.answers["/public/image"] = server.drip(b"x") if part == "body" else server.drip_headers()
    assert "too slow" in refused(cache, image(server)).message
    assert len(server.requests) == 1


def test_a_cancelled_download_ends_at_once_though_the_server_is_silent(
    server: WebServer, cache: ImageCache
) -> None:
    server.answers["/public/image"] = server.fall_silent(b"x", 1000)
    work = steps.Work("one")

    def cancel() -> None:
        while not server.requests:
            concurrency.sleep(0.01)
        work.cancel()

    task = concurrency.spawn(cancel)
    started = time.monotonic()
    with steps.working(work), pytest.raises(errors.Cancelled):
        cache.ensure(image(server))
    task.wait()
    assert time.monotonic() - started < CONF.images.download_timeout / 2
    assert cached_files(cache) == []


def test_ten_that_want_an_image_at_once_make_one_download(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = ranged(CONTENTS)
    tasks = [concurrency.spawn(cache.ensure, image(server)) for _ in range(10)]
    made = {task.wait() for task in tasks}
    assert len(made) == 1
    assert contents(made.pop()) == CONTENTS
    assert server.paths == ["/public/image"]


# --- broken off, and taken up again ----------------------------------------------------------------


@pytest.mark.parametrize("etag", ['"one"', ""])
def test_a_download_that_breaks_off_goes_on_from_there(
    etag: str, server: WebServer, cache: ImageCache
) -> None:
    dated = "Mon, 01 Jun 2026 10:00:00 GMT"
    first, rest = (
        ranged(CONTENTS, etag=etag, stop_after=stop, last_modified=dated) for stop in (200_000, None)
    )
    if not etag:
        rest = _by_date(dated)
    server.answers["/public/image"] = [first, rest]
    made = cache.ensure(image(server))
    assert contents(made) == CONTENTS
    assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=200000-"]
    assert server.requests[1][1]["If-Range"] == (etag or dated)


def _by_date(dated: str) -> Answer:
    """Answer with the rest of the version of that date."""
    rest = CONTENTS[200_000:]
    told = {"Content-Range": f"bytes 200000-{len(CONTENTS) - 1}/{len(CONTENTS)}", "Last-Modified": dated}
    return send(rest, status=206, headers=told)


def test_a_file_that_changes_between_two_requests_starts_afresh(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = [ranged(CONTENTS, stop_after=200_000), ranged(OTHER, etag='"two"')]
    assert contents(cache.ensure(image(server))) == OTHER


@pytest.mark.parametrize(
    "wrong",
    [
        {"ETag": '"two"', "Content-Range": "bytes 200000-299999/300000"},
        {"ETag": '"one"', "Content-Range": "bytes 200000-399999/400000"},
        {"ETag": '"one"', "Content-Range": "bytes 100000-199999/300000"},
        {"ETag": '"one"', "Content-Range": "nonsense"},
        {"ETag": '"one"'},
    ],
)
def test_a_rest_that_does_not_fit_is_not_used(
    wrong: dict[str, str], server: WebServer, cache: ImageCache
) -> None:
    misleading = send(OTHER[200_000:], status=206, headers=wrong)
    server.answers["/public/image"] = [ranged(CONTENTS, stop_after=200_000), misleading, ranged(OTHER)]
    assert contents(cache.ensure(image(server))) == OTHER


def test_a_file_that_became_shorter_starts_afresh(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = [
        ranged(CONTENTS, stop_after=200_000),
        send(b"", status=416),
        send(CONTENTS[:1000]),
    ]
    assert contents(cache.ensure(image(server))) == CONTENTS[:1000]


@pytest.mark.parametrize("etag", ["", 'W/"one"'])
def test_without_a_version_to_go_by_everything_is_fetched_again(
    etag: str, server: WebServer, cache: ImageCache
) -> None:
    server.answers["/public/image"] = [ranged(CONTENTS, etag=etag, stop_after=10), ranged(OTHER, etag=etag)]
    assert contents(cache.ensure(image(server))) == OTHER
    assert "Range" not in server.requests[1][1]


def test_a_server_that_breaks_off_again_and_again_is_given_up(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = ranged(CONTENTS, stop_after=1000)
    refused(cache, image(server))
    assert len(server.requests) == CONF.images.download_retries + 1


def test_who_gets_further_each_time_is_not_given_up(
    server: WebServer, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK_BYTES", 16 * 1024)
    server.answers["/public/image"] = ranged(CONTENTS, stop_after=32 * 1024)
    assert contents(cache.ensure(image(server))) == CONTENTS
    assert len(server.requests) > CONF.images.download_retries + 1


def test_a_file_that_is_another_each_time_is_given_up(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = [
        ranged(CONTENTS, etag=f'"{number}"', stop_after=1000) for number in range(9)
    ]
    refused(cache, image(server))


def test_a_server_that_is_out_of_order_for_a_moment_is_asked_again(
    server: WebServer, cache: ImageCache
) -> None:
    server.answers["/public/image"] = [send(b"", status=503), ranged(CONTENTS)]
    assert contents(cache.ensure(image(server))) == CONTENTS


def test_an_answer_in_chunks_is_taken_and_one_without_its_end_is_not(
    server: WebServer, cache: ImageCache
) -> None:
    server.answers["/public/image"] = chunked([CONTENTS[:1000], CONTENTS[1000:]])
    assert contents(cache.ensure(image(server))) == CONTENTS
    server.answers["/public/cut"] = chunked([CONTENTS[:1000]], whole=False)
    with pytest.raises(errors.ImageUnavailable):
        cache.ensure(image(server, "/public/cut"))


def test_a_rest_that_is_asked_for_by_nobody_is_refused(server: WebServer, cache: ImageCache) -> None:
    server.answers["/public/image"] = send(CONTENTS, status=206)
    refused(cache, image(server))


# --- where it may lead to --------------------------------------------------------------------------


def test_a_name_that_turns_out_to_be_this_host_is_refused(
    server: WebServer, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = addresses.resolve
    monkeypatch.setattr(addresses, "resolve", lambda host, port: real("127.0.0.1", port))
    CONF.set_override("allowed_sources", ["http://", server.root], group="images")
    error = refused(cache, Image(url=f"http://images.example.org:{server.port}/public/image"))
    assert "127.0.0.1" in error.message
    assert not error.retryable
    assert server.requests == []


def test_a_name_is_looked_up_once_and_what_was_judged_is_connected_to(
    server: WebServer, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that says something else the second time (DNS rebinding) is not asked twice."""
    looked_up: list[str] = []

    def resolve(host: str, port: int) -> list[addresses.Address]:
        looked_up.append(host)
        return [(2, ("169.254.169.254" if len(looked_up) > 1 else "127.0.0.1", port))]

    monkeypatch.setattr(addresses, "resolve", resolve)
    server.answers["/public/image"] = send(CONTENTS)
    CONF.set_override("allowed_sources", [f"http://localhost:{server.port}/"], group="images")
    cache.ensure(Image(url=f"http://localhost:{server.port}/public/image"))
    assert looked_up == ["localhost"]


def test_of_several_addresses_only_the_permitted_are_tried() -> None:
    found = [(2, ("127.0.0.1", 80)), (2, ("192.0.2.1", 80)), (10, ("::1", 80, 0, 0))]
    assert addresses.permitted(found, inner=False) == [(2, ("192.0.2.1", 80))]
    assert addresses.permitted(found, inner=True) == found


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "nonsense",
    ],
)
def test_an_inner_address_is_known_in_all_its_forms(address: str) -> None:
    assert addresses.is_inner(address)


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "10.1.2.3", "192.168.7.7", "2001:db8::1", "fd12::1", "64:ff9b::c000:201"]
)
def test_other_addresses_are_not(address: str) -> None:
    assert not addresses.is_inner(address)


@pytest.mark.parametrize("name", ["Host", "range", "Transfer-Encoding", "Connection", "Proxy-Authorization"])
def test_headers_that_would_lead_elsewhere_are_refused(
    name: str, server: WebServer, cache: ImageCache
) -> None:
    refused(cache, image(server, headers={name: "internal.example.org"}))
    assert server.requests == []


def test_a_header_that_holds_another_is_refused(server: WebServer, cache: ImageCache) -> None:
    refused(cache, image(server, headers={"X-Note": "one\r\nHost: internal.example.org"}))
    assert server.requests == []


# --- proxies and TLS -------------------------------------------------------------------------------


@pytest.fixture
def configure() -> Iterator[Callable[[str, object], None]]:
    """Set an option of [images] for the test."""
    changed: list[str] = []

    def change(name: str, value: object) -> None:
        changed.append(name)
        CONF.set_override(name, value, group="images")

    yield change
    for name in changed:
        CONF.clear_override(name, group="images")


def test_a_proxy_is_asked_with_its_credentials(
    server: WebServer, cache: ImageCache, configure: Callable[[str, object], None]
) -> None:
    url = "http://images.example.org/a?b=c"
    server.answers[url] = send(CONTENTS)
    configure("http_proxy", f"http://agent:se%63ret@127.0.0.1:{server.port}")
    configure("allowed_sources", ["http://images.example.org/"])
    assert contents(cache.ensure(Image(url=url))) == CONTENTS
    ((_, headers),) = server.requests
    assert headers["Host"] == "images.example.org"
    assert headers["Proxy-Authorization"] == "Basic YWdlbnQ6c2VjcmV0"


def test_a_host_without_proxy_is_asked_itself(
    server: WebServer, cache: ImageCache, configure: Callable[[str, object], None]
) -> None:
    server.answers["/public/image"] = send(CONTENTS)
    configure("http_proxy", "http://127.0.0.1:9")
    configure("no_proxy", ["127.0.0.1"])
    assert contents(cache.ensure(image(server))) == CONTENTS


def test_an_image_comes_over_tls_if_its_server_is_trusted(
    cache: ImageCache, tmp_path: pathlib.Path, configure: Callable[[str, object], None]
) -> None:
    both = certificate(tmp_path)
    with WebServer(certificate=both) as server:
        configure("allowed_sources", [server.root, f"https://localhost:{server.port}/"])
        server.answers["/image"] = [ranged(CONTENTS, stop_after=1000), ranged(CONTENTS)]
        error = refused(cache, image(server, "/image"))
        assert ("certificate" in error.message, error.retryable) == (True, False)
        configure("ca_file", str(both))
        assert contents(cache.ensure(image(server, "/image"))) == CONTENTS
        with WebServer() as proxy:
            configure("https_proxy", f"127.0.0.1:{proxy.port}")
            through = Image(url=f"https://localhost:{server.port}/image")
            assert contents(cache.ensure(through)) == CONTENTS
            assert proxy.tunnels == [f"localhost:{server.port}"]


def test_a_server_that_has_another_name_is_not_trusted(
    cache: ImageCache, tmp_path: pathlib.Path, configure: Callable[[str, object], None]
) -> None:
    both = certificate(tmp_path, "images.example.org")
    with WebServer(certificate=both) as server:
        configure("ca_file", str(both))
        configure("allowed_sources", [f"https://localhost:{server.port}/"])
        error = refused(cache, Image(url=f"https://localhost:{server.port}/image"))
        assert "certificate" in error.message

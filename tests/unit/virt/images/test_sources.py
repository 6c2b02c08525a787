# SPDX-License-Identifier: Apache-2.0
"""An image comes from where it may, and from a real file."""

from __future__ import annotations

import os
import socket

import pytest

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import sources
from compute_agent.virt.images.cache import ImageCache
from tests.unit.virt.images.conftest import Store, cached_files, unprivileged


@pytest.fixture
def allowed(store: Store, request: pytest.FixtureRequest) -> None:
    CONF.set_override("allowed_sources", request.param, group="images")


@pytest.mark.parametrize("allowed", [["https://images.example.org/public/", "https://other"]], indirect=True)
@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.org/public/a",
        "https://images.example.org.evil.net/public/a",
        "https://images.example.org@evil.net/public/a",
        "https://user:word@images.example.org/public/a",
        "https://images.example.org:8443/public/a",
        "https://images.example.org/private/a",
        "https://images.example.org/publicity/a",
        "https://images.example.org/public/../private/a",
        "https://images.example.org/public/%2e%2e/private/a",
        "https://images.example.org/public/..%2fprivate/a",
        "https://evil.net/https://images.example.org/public/a",
        "https://otherwise/a",
        "https:///public/a",
        "https://images.example.org:port/public/a",
        "ftp://images.example.org/public/a",
        "glance://images.example.org/public/a",
        "file:///etc/passwd",
    ],
)
@pytest.mark.usefixtures("allowed")
def test_a_url_outside_the_allowed_prefixes_is_refused(url: str) -> None:
    with pytest.raises(errors.ImageUnavailable) as caught:
        sources.allow(url)
    assert not caught.value.retryable


@pytest.mark.parametrize("allowed", [["https://images.example.org/public/", "http://"]], indirect=True)
@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.org/public/a.qcow2",
        "https://IMAGES.example.org:443/public/sub/a.qcow2?signature=x",
        "http://anything.example.org/at/all",
    ],
)
@pytest.mark.usefixtures("allowed")
def test_a_url_below_an_allowed_prefix_is_taken(url: str) -> None:
    assert sources.allow(url).url == url


@pytest.mark.parametrize("allowed", [["https://images.example.org/public/"]], indirect=True)
@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.org/public/%252e%252e/private/a",
        "https://images.example.org/public/%25252e%25252e/private/a",
        "https://images.example.org/public/..;/private/a",
        "https://images.example.org/public/.%2e;x=y/private/a",
        "https://images.example.org/public/..\\private/a",
        "https://images.example.org\\@evil.net/public/a",
        "https://images.example.org/public/\u2025/private",
        "https://images.example.org#@evil.net/public/a",
        "https://images.example.org\tevil.net/public/a",
        "https://images%2eexample.org/public/a",
        "https://\uff49mages.example.org/public/a",
        "https://images.example.org/PUBLIC/a",
        "HTTPS://images.example.org:444/public/a",
        "https://images.example.org:0/public/a",
        "https://@images.example.org/public/a",
    ],
)
@pytest.mark.usefixtures("allowed")
def test_no_trick_of_writing_gets_past_a_prefix(url: str) -> None:
    with pytest.raises(errors.ImageUnavailable):
        sources.allow(url)


HOSTS = """
    127.0.0.1 127.1 2130706433 0x7f000001 0177.0.0.1 0.0.0.0 169.254.169.254 [::1] [::] [fe80::1] localhost.
    [::ffff:127.0.0.1] [::ffff:7f00:1] 127.0.0.1:8081 127.0.0.1:8080/private
"""


@pytest.mark.parametrize(
    "allowed", [["http://", "https://", "http://127.0.0.1:8080/public/", "http://localhost/"]], indirect=True
)
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "localhost.",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "127.0.0.1:8081",
        "127.0.0.1:8080/private",
    ],
)
@pytest.mark.usefixtures("allowed")
def test_this_host_and_its_link_are_refused_unless_named(host: str) -> None:
    with pytest.raises(errors.ImageUnavailable):
        sources.allow(f"http://{host}/image")


@pytest.mark.parametrize(
    "allowed", [["http://", "http://127.0.0.1:8080/public/", "http://localhost/"]], indirect=True
)
@pytest.mark.parametrize(
    ("url", "inner"),
    [
        ("http://127.0.0.1:8080/public/a", True),
        ("http://LOCALHOST/a", True),
        ("http://10.1.2.3/a", False),
        ("http://[2001:db8::1]/a", False),
    ],
)
@pytest.mark.usefixtures("allowed")
def test_what_is_named_may_be_reached(url: str, inner: bool) -> None:
    assert sources.allow(url).inner is inner


@pytest.mark.parametrize("allowed", [["glance://"]], indirect=True)
@pytest.mark.parametrize("rest", ["", "../x", "id/file", "id?x=y", "a@b", "a:1", "-x", "a%2fb"])
@pytest.mark.usefixtures("allowed")
def test_what_is_no_images_id_is_refused(rest: str) -> None:
    with pytest.raises(errors.ImageUnavailable):
        sources.allow(f"glance://{rest}")


def test_what_signs_a_url_is_not_shown() -> None:
    assert sources.shown("https://example.org/a?signature=secret") == "https://example.org/a"


def assert_unavailable(cache: ImageCache, store: Store, name: str, reason: str) -> None:
    with pytest.raises(errors.ImageUnavailable, match=reason):
        cache.ensure(store.image(name))
    assert cached_files(cache) == []


def test_a_missing_file_is_unavailable(cache: ImageCache, store: Store) -> None:
    assert_unavailable(cache, store, "missing", "No such file")


def test_a_directory_is_unavailable(cache: ImageCache, store: Store) -> None:
    (store.directory / "image").mkdir()
    assert_unavailable(cache, store, "image", "a directory")


def test_a_fifo_is_unavailable_and_nobody_waits_for_it(cache: ImageCache, store: Store) -> None:
    os.mkfifo(store.directory / "image")
    assert_unavailable(cache, store, "image", "a FIFO")


def test_a_socket_is_unavailable(cache: ImageCache, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("image")
        assert_unavailable(cache, store, "image", "a socket")


def test_a_device_is_unavailable(cache: ImageCache, store: Store) -> None:
    CONF.set_override("allowed_sources", ["file:///dev/"], group="images")
    with pytest.raises(errors.ImageUnavailable, match="a character device"):
        cache.ensure(store.image("x").__class__(url="file:///dev/zero"))


def test_an_empty_file_is_unavailable(cache: ImageCache, store: Store) -> None:
    store.put("image", b"")
    assert_unavailable(cache, store, "image", "empty")


def test_a_file_that_may_not_be_read_is_unavailable(store: Store) -> None:
    store.put("image", b"contents").chmod(0)
    source = sources.allow(store.url("image"))
    with (
        unprivileged(),
        pytest.raises(errors.ImageUnavailable, match="Permission denied"),
        sources.open_file(source),
    ):
        pass


def test_a_loop_of_links_is_unavailable(cache: ImageCache, store: Store) -> None:
    (store.directory / "image").symlink_to("image")
    assert_unavailable(cache, store, "image", "Too many levels")


@pytest.mark.parametrize("name", ["image", "sub/image"])
def test_a_link_out_of_the_allowed_place_is_refused(cache: ImageCache, store: Store, name: str) -> None:
    (store.outside / "image").write_bytes(b"secret")
    (store.directory / "sub").symlink_to(store.outside)
    (store.directory / "image").symlink_to(store.outside / "image")
    assert_unavailable(cache, store, name, "not in")


@pytest.mark.parametrize("path", ["../outside/image", "%2e%2e/outside/image", "%2E./outside/image"])
def test_a_path_out_of_the_allowed_place_is_refused(cache: ImageCache, store: Store, path: str) -> None:
    (store.outside / "image").write_bytes(b"secret")
    assert_unavailable(cache, store, path, "not in")


def test_a_directory_that_begins_like_the_allowed_one_is_not_it(cache: ImageCache, store: Store) -> None:
    beside = store.directory.parent / "images-of-others"
    beside.mkdir()
    (beside / "image").write_bytes(b"secret")
    assert_unavailable(cache, store, "../images-of-others/image", "not in")


@pytest.mark.parametrize("suffix", ["image%00", "image?x", "image#x"])
def test_a_strange_path_is_refused(cache: ImageCache, store: Store, suffix: str) -> None:
    store.put("image", b"contents")
    with pytest.raises(errors.ImageUnavailable):
        cache.ensure(store.image(suffix))


def test_a_host_in_a_file_url_is_refused(store: Store) -> None:
    with pytest.raises(errors.ImageUnavailable, match="names no host"):
        sources.allow(f"file://elsewhere{store.directory}/image")


def test_a_link_within_the_allowed_place_is_followed(cache: ImageCache, store: Store) -> None:
    store.put("real", b"contents")
    (store.directory / "image").symlink_to("real")
    assert cache.ensure(store.image("image")).virtual_size == 8


def test_a_name_with_escaped_characters_is_found(cache: ImageCache, store: Store) -> None:
    store.put("an image", b"contents")
    assert cache.ensure(store.image("an%20image")).virtual_size == 8


def test_a_file_that_is_swapped_for_a_link_while_it_is_opened_does_not_escape(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("image", b"contents")
    (store.outside / "secret").write_bytes(b"secret")
    source = sources.allow(store.url("image"))
    (store.directory / "image").unlink()
    (store.directory / "image").symlink_to(store.outside / "secret")
    with pytest.raises(errors.ImageUnavailable), sources.open_file(source):
        pass

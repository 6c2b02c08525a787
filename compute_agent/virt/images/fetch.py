# SPDX-License-Identifier: Apache-2.0
"""Bring an image's bytes into a file in the making, chunk by chunk.

Reading files, hashing and writing happen in native threads; HTTP is read in the greenthread.
Between two chunks the operation may be cancelled, its deadline is looked at, and its
progress told.
"""

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import sources
from compute_agent.virt.images.part import Part
from compute_agent.virt.images.qemu_img import free_bytes
from compute_agent.virt.images.sources import OpenFile, Source

CHUNK_BYTES = 4 * 2**20
REDIRECTS = 5


Call = Callable[..., Any]
"""Runs a function with its arguments in a native thread."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """How many bytes may come.

    :param told: how many the sender said there are; 0 if it did not say
    :param most: how many the agent takes
    """

    told: int
    most: int

    def check(self, size: int) -> None:
        """Say whether ``size`` may be.

        :raises ImageUnavailable: if it is more than was told
        :raises ImageTooLarge: if it is more than the agent takes
        """
        if self.told and size > self.told:
            raise errors.ImageUnavailable(f"the image has {size} bytes or more, size_bytes says {self.told}")
        if size > self.most:
            raise errors.ImageTooLarge(f"the image is over {self.most} bytes")


def fetch(source: Source, part: Part, call: Call, *, headers: Mapping[str, str], limit: Limit) -> None:
    """Fill ``part`` from ``source``.

    :param call: runs a function in a native thread
    :param headers: sent with a request to the url's own origin
    :raises ImageUnavailable: if it can't be had whole
    :raises ImageTooLarge: if it is over the limit
    :raises DiskFull: if there is no room for it
    :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
    """
    if source.scheme == "file":
        _copy(source, part, call, limit)
    else:
        _download(source, part, call, headers, limit)


def _copy(source: Source, part: Part, call: Call, limit: Limit) -> None:
    work = steps.current()
    with contextlib.ExitStack() as stack:
        file = call(stack.enter_context, sources.open_file(source))
        _check_room(file.size, min(file.size, file.allocated), part, limit)
        while call(part.copy_from, file.fd, CHUNK_BYTES):
            failpoints.hit("images.fetch.chunk")
            work.report(part.size, file.size)
            work.check()
            limit.check(part.size)
        _check_unchanged(source, file, part)


def _check_unchanged(source: Source, file: OpenFile, part: Part) -> None:
    if file.changed() or part.size != file.size:
        raise errors.ImageUnavailable(f"{sources.shown(source.url)}: it was changed while it was read")


def _download(source: Source, part: Part, call: Call, headers: Mapping[str, str], limit: Limit) -> None:
    work = steps.current()
    with _network_errors(source), _response(source, headers) as response:
        total = _content_length(response)
        _check_room(total or 0, total or 0, part, limit)
        for chunk in _chunks(response):
            call(part.take, chunk)
            failpoints.hit("images.fetch.chunk")
            work.report(part.size, total)
            work.check()
            limit.check(part.size)
    if total is not None and part.size != total:
        raise errors.ImageUnavailable(f"{sources.shown(source.url)}: {part.size} of {total} bytes came")


@contextlib.contextmanager
def _response(source: Source, headers: Mapping[str, str]) -> Iterator[Any]:
    """Ask for ``source``, following redirects as long as each leads to an allowed place."""
    import requests

    url, allowed = source.url, {**headers, "Accept-Encoding": "identity"}
    with requests.Session() as session:
        for _ in range(REDIRECTS + 1):
            timeout = CONF.images.download_timeout
            with session.get(
                url, headers=allowed, stream=True, allow_redirects=False, timeout=timeout
            ) as got:
                if not got.is_redirect:
                    _check_answer(source, got)
                    yield got
                    return
                url, allowed = _next(source, url, got.headers["Location"], allowed)
            steps.current().check()
    raise errors.ImageUnavailable(f"{sources.shown(source.url)}: over {REDIRECTS} redirects")


def _get(session: Any, url: str, headers: Mapping[str, str]) -> Any:
    timeout = CONF.images.download_timeout
    return session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=timeout)


def _next(source: Source, url: str, location: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    target = urllib.parse.urljoin(url, location)
    if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
        raise errors.ImageUnavailable(
            f"{sources.shown(source.url)}: it redirects to {sources.shown(target)}, which is not HTTP",
            retryable=False,
        )
    sources.allow(target)
    if _origin(target) != _origin(url):  # what proves who we are is for the one who asked for it
        headers = {"Accept-Encoding": "identity"}
    return target, headers


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _check_answer(source: Source, response: Any) -> None:
    status = response.status_code
    if status != 200:
        raise errors.ImageUnavailable(
            f"{sources.shown(source.url)}: the server answers {status}",
            retryable=status >= 500 or status in (408, 429),
        )
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise errors.ImageUnavailable(
            f"{sources.shown(source.url)}: the server sends it encoded as {encoding[:64]}", retryable=False
        )


def _content_length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _chunks(response: Any) -> Iterator[bytes]:
    """Gather what comes into chunks. A server that sends byte by byte is still cancelled at once."""
    gathered = bytearray()
    while piece := response.raw.read1(256 * 1024):
        gathered += piece
        steps.current().check()
        if len(gathered) >= CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
        concurrency.sleep(0)  # a fast server must not keep the hub for itself
    if gathered:
        yield bytes(gathered)


@contextlib.contextmanager
def _network_errors(source: Source) -> Iterator[None]:
    import requests
    import urllib3

    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise errors.ImageUnavailable(
            f"{sources.shown(source.url)}: it can't be fetched ({type(error).__name__})", evidence=str(error)
        ) from None


def _check_room(size: int, needed: int, part: Part, limit: Limit) -> None:
    limit.check(size)
    free = free_bytes(part.path)
    if needed > free:
        raise errors.DiskFull(f"the image takes {needed} bytes, {free} are free at {part.final}")

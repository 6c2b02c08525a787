# SPDX-License-Identifier: Apache-2.0
"""One exchange with an HTTP server: connected to an address that was judged; asking follows redirects.

The standard library's client is used, on sockets that are connected here: what is judged is
the very address that the socket then gets, so no second look-up can lead elsewhere. Sockets
belong to the hub; names are looked up, and certificates loaded, in native threads.

A proxy, if configured, is the operator's: it is connected to wherever it is, and looks names
up itself. Sources that name an inner address are refused before that (:mod:`sources`).
"""

import base64
import contextlib
import dataclasses
import functools
import http.client
import os
import socket
import ssl
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from compute_agent import steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import addresses, sources
from compute_agent.virt.images.sources import shown

REDIRECTS = 5
_PIECE_BYTES = 256 * 1024
_PORTS = {"http": 80, "https": 443}
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
_OURS = frozenset({"host", "range", "if-range", "connection", "accept-encoding", "content-length"}) | {
    "transfer-encoding",
    "expect",
    "upgrade",
    "proxy-authorization",
    "te",
    "trailer",
}
"""Headers that a sender may not choose: `Host` alone would make another place of an allowed one."""

Call = Callable[..., Any]
"""Runs a function with its arguments in a native thread."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where to ask, and how.

    :param headers: for the url's own origin alone
    :param inner: whether it may be this host, or on its link
    """

    url: str
    headers: Mapping[str, str]
    inner: bool = False

    def unavailable(self, reason: str, retryable: bool = True) -> errors.ImageUnavailable:
        """Return the error that names the url, as it may be shown, and says what is wrong."""
        return errors.ImageUnavailable(f"{shown(self.url)}: {reason}", retryable=retryable)


class Answer:
    """What a server answers; its body is still to come."""

    def __init__(self, response: http.client.HTTPResponse, url: str) -> None:
        self._response = response
        self.url = url
        self.status = response.status

    def header(self, name: str) -> str:
        """Return a header, or nothing."""
        return self._response.headers.get(name, "")

    @property
    def length(self) -> int | None:
        """The bytes of the body, if they are told."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes, a quarter of a mebibyte at most at a time."""
        while piece := self._response.read1(_PIECE_BYTES):
            yield piece


@contextlib.contextmanager
def ask(target: Target, extra: Mapping[str, str], call: Call) -> Iterator[Answer]:
    """Ask for ``target``, following redirects as long as each leads to an allowed place.

    :param extra: headers of ours, sent wherever it leads to
    :raises ImageUnavailable: if no answer comes, or it leads to where images may not come from
    """
    _check_headers(target)
    first = target
    with _typed(first.url):
        for _ in range(REDIRECTS + 1):
            with _exchange("GET", target, extra, call) as answer:
                if answer.status not in _REDIRECTING or not answer.header("Location"):
                    yield answer
                    return
                target = _next(target, answer.header("Location"))
            steps.current().check()
    raise errors.ImageUnavailable(f"{shown(first.url)}: over {REDIRECTS} redirects", retryable=False)


@contextlib.contextmanager
def put(target: Target, body: Iterable[bytes], length: int, call: Call) -> Iterator[Answer]:
    """Send ``body`` to ``target``; a redirect is an answer like others.

    :param length: of the body, in bytes
    :raises ImageUnavailable: if it can't be sent, or no answer comes
    """
    _check_headers(target)
    told = {"Content-Length": str(length)}
    if "content-type" not in {name.lower().strip() for name in target.headers}:
        told["Content-Type"] = "application/octet-stream"
    with _typed(target.url, "sent to"), _exchange("PUT", target, told, call, body) as answer:
        yield answer


@contextlib.contextmanager
def _exchange(
    method: str, target: Target, extra: Mapping[str, str], call: Call, body: Iterable[bytes] = ()
) -> Iterator[Answer]:
    parts = urllib.parse.urlsplit(target.url)
    connection = _connection(parts, target.inner, call)
    try:
        path, ours = _addressed(parts)
        connection.putrequest(method, path, skip_accept_encoding=True)
        every = {**target.headers, **extra, **ours, "Accept-Encoding": "identity", "Connection": "close"}
        for name, value in every.items():
            connection.putheader(name, value)
        connection.endheaders()
        # A server that has heard enough may answer and close before all is sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in body:
                connection.send(piece)
        with connection.getresponse() as response:
            yield Answer(response, target.url)
    finally:
        connection.close()


def _connection(parts: urllib.parse.SplitResult, inner: bool, call: Call) -> http.client.HTTPConnection:
    """Connect to whom ``parts`` names, or to its proxy."""
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    proxy = proxy_of(parts)
    if proxy is None:
        sock = _socket_to(host, port, call, inner=inner)
    else:
        sock = _socket_to(proxy.hostname or "", proxy.port or 3128, call, inner=True)
    try:
        if parts.scheme == "http":
            connection = http.client.HTTPConnection(host, port)
        else:
            if proxy is not None:
                _tunnel(sock, host, port, _credentials(proxy))
            context = call(_tls, CONF.images.ca_file)
            sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            sock.do_handshake()
            connection = http.client.HTTPSConnection(host, port, context=context)
    except BaseException:
        sock.close()
        raise
    connection.sock = sock
    return connection


def _socket_to(host: str, port: int, call: Call, *, inner: bool) -> socket.socket:
    """Connect to the first permitted address of ``host`` that answers.

    :raises ImageUnavailable: if none is permitted
    :raises OSError: if none answers
    """
    found = call(addresses.resolve, host, port)
    permitted = addresses.permitted(found, inner=inner)
    if not permitted:
        raise errors.ImageUnavailable(
            f"{host} is on this host or its link ({found[0][1][0]})",
            retryable=False,
            hint="an entry of [images] allowed_sources has to name that address as its host",
        )
    failure = OSError(f"{host} has no address")
    for family, address in permitted:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONF.images.connect_timeout)
            sock.connect(address)
            sock.settimeout(CONF.images.download_timeout)
            return sock
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise failure


def _tunnel(sock: socket.socket, host: str, port: int, headers: Mapping[str, str]) -> None:
    """Have a proxy connect ``sock`` further.

    :raises ImageUnavailable: if it does not
    """
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}", *(f"{key}: {it}" for key, it in headers.items())]
    sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    with http.client.HTTPResponse(sock, method="CONNECT") as response:
        response.begin()
        if response.status != 200:
            raise errors.ImageUnavailable(f"the proxy answers {response.status} for {name}")


def _addressed(parts: urllib.parse.SplitResult) -> tuple[str, dict[str, str]]:
    """Return what is asked for, and the headers for a proxy that has to do it."""
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    proxy = proxy_of(parts) if parts.scheme == "http" else None
    if proxy is None:
        return path, {}
    return f"http://{parts.netloc}{path}", _credentials(proxy)


def proxy_of(parts: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
    """Return the configured proxy for a url, if there is one."""
    text = CONF.images.http_proxy if parts.scheme == "http" else CONF.images.https_proxy
    if not text or any(_is_of(parts.hostname or "", name) for name in CONF.images.no_proxy):
        return None
    return urllib.parse.urlsplit(text if "://" in text else f"http://{text}")


def _is_of(host: str, name: str) -> bool:
    name = name.strip().lower()
    return name == "*" or host == name.lstrip(".") or (name.startswith(".") and host.endswith(name))


def _credentials(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    word = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(word.encode()).decode("ascii")}


def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Return the settings for TLS. In a native thread: reading the authorities takes 20 ms."""
    return _tls_of(ca_file, os.stat(ca_file).st_mtime_ns if ca_file else 0)


@functools.lru_cache(maxsize=2)
def _tls_of(ca_file: str | None, _changed: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def _next(target: Target, location: str) -> Target:
    """Return where a redirect leads to.

    :raises ImageUnavailable: if that is not allowed
    """
    url = urllib.parse.urljoin(target.url, location)
    if urllib.parse.urlsplit(url).scheme not in _PORTS:
        raise errors.ImageUnavailable(
            f"{shown(target.url)}: it redirects to {shown(url)}, which is not HTTP", retryable=False
        )
    allowed = sources.allow(url)
    # What proves who we are is for the one who asked for it.
    headers = target.headers if _origin(url) == _origin(target.url) else {}
    return Target(url=url, headers=headers, inner=allowed.inner)


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def _check_headers(target: Target) -> None:
    for name in target.headers:
        if name.lower().strip() in _OURS:
            raise errors.ImageUnavailable(
                f"{shown(target.url)}: the header {name} is the agent's", retryable=False
            )


@contextlib.contextmanager
def _typed(url: str, done: str = "fetched") -> Iterator[None]:
    """Make a typed error of what goes wrong on the way to ``url``."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise errors.ImageUnavailable(
            f"{shown(url)}: its certificate is not trusted",
            retryable=False,
            hint="[images] ca_file names the authorities",
            evidence=str(error),
        ) from None
    except (OSError, http.client.HTTPException) as error:
        name = type(error).__name__
        raise errors.ImageUnavailable(
            f"{shown(url)}: it can't be {done} ({name})", evidence=str(error)
        ) from None
    except ValueError as error:  # a header, or a url, that can't be sent
        raise errors.ImageUnavailable(
            f"{shown(url)}: it can't be asked for", retryable=False, evidence=str(error)
        ) from None

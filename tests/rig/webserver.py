# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that answers as it is told to: rightly, wrongly, slowly, or not to the end."""

from __future__ import annotations

import contextlib
import http.server
import pathlib
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


class WebServer:
    """An HTTP server on this machine.

    ``answers`` says how each path is answered; a list, how one time after the other.

    :param host: what it listens at
    :param certificate: of :func:`certificate`, to speak TLS
    :ivar requests: the paths and headers that came, in order
    """

    def __init__(self, host: str = "127.0.0.1", certificate: pathlib.Path | None = None) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.tunnels: list[str] = []
        self.ended = threading.Event()
        self.host = host
        self.scheme = "https" if certificate else "http"
        outer = self

        class _Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_PUT = do_GET

            def do_CONNECT(self) -> None:
                outer._tunnel(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((host, 0), _Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def root(self) -> str:
        """Its url, without a slash at the end."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path for path, _ in self.requests]

    def close(self) -> None:
        """Stop it, and let go whoever answers slowly. May be repeated."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: Handler) -> None:
        self.requests.append((handler.path, dict(handler.headers)))
        answer = self.answers.get(handler.path, send(b"", status=404))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        try:
            answer(handler)
        except OSError:
            handler.close_connection = True

    def _tunnel(self, handler: Handler) -> None:
        """Be a proxy: connect the client further, to this machine whatever the name."""
        self.tunnels.append(handler.path)
        self.requests.append((handler.path, dict(handler.headers)))
        with socket.create_connection(("127.0.0.1", int(handler.path.rpartition(":")[2]))) as other:
            handler.wfile.write(b"HTTP/1.1 200 Go on\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(other, handler.connection), daemon=True)
            back.start()
            _pass_on(handler.connection, other)
            back.join()
        handler.close_connection = True

    def drip(self, body: bytes, pause_s: float = 0.02, length: int | None = None) -> Answer:
        """Answer byte by byte until the server is closed."""

        def answer(handler: Handler) -> None:
            handler.send_response(200)
            if length is not None:
                handler.send_header("Content-Length", str(length))
            handler.end_headers()
            while not self.ended.wait(pause_s):
                handler.wfile.write(body)
                handler.wfile.flush()

        return answer

    def drip_headers(self, pause_s: float = 0.02) -> Answer:
        """Never come to the end of the headers."""

        def answer(handler: Handler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not self.ended.wait(pause_s):
                handler.wfile.write(b"x")
                handler.wfile.flush()

        return answer

    def fall_silent(self, body: bytes, length: int) -> Answer:
        """Send ``body`` of a longer answer, and nothing any more."""

        def answer(handler: Handler) -> None:
            _head(handler, 200, {"Content-Length": str(length)})
            handler.wfile.write(body)
            self.ended.wait(60)

        return answer


def send(
    body: bytes, *, status: int = 200, length: int | None = -1, headers: dict[str, str] | None = None
) -> Answer:
    """Answer with ``body``; a ``length`` of -1 is its own, None is none."""

    def answer(handler: Handler) -> None:
        told = {} if length is None else {"Content-Length": str(len(body) if length == -1 else length)}
        _head(handler, status, told | (headers or {}))
        handler.wfile.write(body)

    return answer


def ranged(body: bytes, *, etag: str = '"one"', stop_after: int | None = None, **headers: str) -> Answer:
    """Answer as a good server does, ranges of the version ``etag`` too.

    :param stop_after: break off after as many bytes
    """

    def answer(handler: Handler) -> None:
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if wanted and handler.headers.get("If-Range", etag) in (etag, headers.get("last_modified")):
            start = int(wanted[1])
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        told = {"Content-Length": str(len(body) - start), **({"ETag": etag} if etag else {}), **named}
        if start:
            told["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        _head(handler, 206 if start else 200, told)
        handler.wfile.write(body[start:] if stop_after is None else body[start : start + stop_after])

    return answer


def redirect(location: str) -> Answer:
    """Answer with a redirect."""
    return send(b"", status=302, headers={"Location": location})


def chunked(pieces: Sequence[bytes], *, whole: bool = True) -> Answer:
    """Answer in chunks; unless ``whole``, without the one that ends them."""

    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        _head(handler, 200, {"Transfer-Encoding": "chunked", "Connection": "close"})
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if whole:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return answer


def _head(handler: Handler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
    with contextlib.suppress(OSError):
        to.shutdown(socket.SHUT_WR)


def certificate(directory: pathlib.Path, host: str = "localhost") -> pathlib.Path:
    """Make a certificate of ``host`` and its key, in one file; it is its own authority."""
    key, made, both = (directory / name for name in ("key.pem", "cert.pem", "both.pem"))
    names = f"subjectAltName=DNS:{host},IP:127.0.0.1"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    where = ["-keyout", key, "-out", made]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, *where, "-subj", f"/CN={host}", "-addext", names, "-days", "2"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    both.write_bytes(made.read_bytes() + key.read_bytes())
    return both


@contextlib.contextmanager
def serving_files(**files: bytes) -> Iterator[WebServer]:
    """Serve ``files`` by their names."""
    with WebServer() as server:
        server.answers.update({f"/{name}": ranged(body) for name, body in files.items()})
        yield server

# SPDX-License-Identifier: Apache-2.0
"""Where images may come from, and the file behind a ``file://`` url.

``[images] allowed_sources`` holds prefixes. They are compared part by part, never as mere
text: ``https://images.example.org`` does not allow ``https://images.example.org.evil.net``, and
``..`` leads nowhere.

A file is opened in two moves so that nobody can swap it in between: first as a mere handle,
which opens neither a device nor a FIFO; then the handle itself is asked what it is and where,
and read through. What a link led to is judged, not the link's name.
"""

import contextlib
import dataclasses
import os
import posix
import stat
import urllib.parse
from collections.abc import Iterator, Sequence

from compute_agent.conf import CONF
from compute_agent.model import errors

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True)
class Source:
    """An allowed source. ``path`` is set for files: absolute, not resolved."""

    url: str
    scheme: str
    path: str | None = None


@dataclasses.dataclass(frozen=True)
class OpenFile:
    """A regular file that was opened from an allowed place; ``path`` is its real one.

    ``identity`` changes whenever the file is replaced or written.
    """

    fd: int
    path: str
    size: int
    allocated: int
    identity: str

    def changed(self) -> bool:
        """Return whether the file was written since it was opened."""
        return _identity(posix.fstat(self.fd)) != self.identity


def shown(url: str) -> str:
    """Return ``url`` as a message may show it: a query may hold a signature."""
    return url.partition("?")[0][:512]


def allow(url: str) -> Source:
    """Return the source of ``url`` if it is allowed. Runs in a native thread: links are followed.

    :raises ImageUnavailable: if it is not
    """
    parts = _split(url)
    if parts.scheme == "file":
        source = Source(url, "file", _file_path(url, parts))
        _check_place(source, os.path.realpath(source.path or ""))
        return source
    if parts.scheme not in _DEFAULT_PORTS:
        raise _refused(url, f"there is no source for {parts.scheme}://")
    if not any(_matches(parts, _split(prefix)) for prefix in _allowed(parts.scheme)):
        raise _refused(url, "it is not in [images] allowed_sources")
    return Source(url, parts.scheme)


@contextlib.contextmanager
def open_file(source: Source) -> Iterator[OpenFile]:
    """Open the file of a ``file://`` source for reading. Runs in a native thread.

    :raises ImageUnavailable: if it is outside the allowed places once links are followed, missing,
        unreadable, empty, or no regular file
    """
    assert source.path is not None
    handle = _handle(source)
    try:
        found = posix.fstat(handle)
        real = posix.readlink(f"/proc/self/fd/{handle}")
        _check_place(source, real)
        _check_kind(source, found)
        try:
            fd = posix.open(f"/proc/self/fd/{handle}", posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOCTTY)
        except OSError as error:
            raise _unreadable(source, error) from None
    finally:
        posix.close(handle)
    try:
        yield OpenFile(fd, real, found.st_size, found.st_blocks * 512, _identity(found))
    finally:
        posix.close(fd)


def _handle(source: Source) -> int:
    assert source.path is not None
    try:
        return posix.open(source.path, posix.O_PATH | posix.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(source, error) from None


def _check_place(source: Source, real: str) -> None:
    for prefix in _allowed("file"):
        directory = os.path.realpath(_file_path(prefix, _split(prefix)))
        if real.startswith(directory.rstrip("/") + "/"):
            return
    raise _refused(source.url, "it leads to a place that is not in [images] allowed_sources")


def _check_kind(source: Source, found: os.stat_result) -> None:
    kinds = [
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
    ]
    for test, name in kinds:
        if test(found.st_mode):
            raise _refused(source.url, f"it is {name}, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise _refused(source.url, "it is not a file")
    if found.st_size == 0:
        raise _refused(source.url, "it is empty")


def _identity(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises for what is no port
    except ValueError:
        raise _refused(url, "it is not a url") from None
    if parts.username is not None or parts.password is not None:
        raise _refused(url, "a url must not hold a user's name or password; use headers")
    return parts


def _file_path(url: str, parts: urllib.parse.SplitResult) -> str:
    if parts.netloc not in ("", "localhost"):
        raise _refused(url, "a file:// url names no host")
    if parts.query or parts.fragment:
        raise _refused(url, "? and # in a file's name are to be written %3F and %23")
    path = os.fsdecode(urllib.parse.unquote_to_bytes(parts.path))
    if not path.startswith("/") or "\x00" in path:
        raise _refused(url, "it is not an absolute path")
    return path


def _allowed(scheme: str) -> Sequence[str]:
    return [prefix for prefix in CONF.images.allowed_sources if prefix.lower().startswith(f"{scheme}:")]


def _matches(url: urllib.parse.SplitResult, prefix: urllib.parse.SplitResult) -> bool:
    if not url.hostname:
        return False
    if prefix.netloc and (url.hostname, _port(url)) != (prefix.hostname, _port(prefix)):
        return False
    return _below(url.path, prefix.path)


def _port(parts: urllib.parse.SplitResult) -> int | None:
    return parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _below(path: str, prefix: str) -> bool:
    if prefix in ("", "/"):
        return True
    segments = urllib.parse.unquote(path).replace("\\", "/").split("/")
    if ".." in segments:
        return False
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _refused(url: str, reason: str) -> errors.ImageUnavailable:
    return errors.ImageUnavailable(f"{shown(url)}: {reason}", retryable=False)


def _unreadable(source: Source, error: OSError) -> errors.ImageUnavailable:
    return errors.ImageUnavailable(f"{shown(source.url)}: {error.strerror or error}")

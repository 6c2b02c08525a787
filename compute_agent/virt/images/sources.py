# SPDX-License-Identifier: Apache-2.0
"""Where images may come from and go to, and the file behind a ``file://`` url.

``[images] allowed_sources`` (and ``allowed_destinations``, for snapshots) hold prefixes. They are
compared part by part, never as mere text: ``https://images.example.org`` does not allow
``https://images.example.org.evil.net``, and ``..`` leads nowhere, escaped as often as you like. A
prefix of a whole scheme (``https://``) opens the world, but neither this host nor its link: for those,
see :mod:`addresses`, a prefix has to name the host.

A file is opened in two moves so that nobody can swap it in between: first as a mere handle,
which opens neither a device nor a FIFO; then the handle itself is asked what it is and where,
and read through. What a link led to is judged, not the link's name.
"""

import contextlib
import dataclasses
import ipaddress
import os
import posix
import re
import stat
import urllib.parse
from collections.abc import Iterator, Sequence

from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.model.secrets import public
from compute_agent.virt.images import addresses

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PRINTABLE = frozenset(map(chr, range(0x21, 0x7F))) - {"\\"}
"""What a url of the network is made of: parsers disagree about the rest."""
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_IMAGE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SOURCES, DESTINATIONS = "allowed_sources", "allowed_destinations"
"""Options of ``[images]`` that hold prefixes: where images come from, where snapshots go."""


@dataclasses.dataclass(frozen=True)
class Source:
    """An allowed source.

    :param path: of a file: absolute, not resolved
    :param image_id: of an image that the image service has
    :param inner: whether it may be this host, or on its link
    """

    url: str
    scheme: str
    path: str | None = None
    image_id: str | None = None
    inner: bool = False


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
    return public(url)[:512]


def allow(url: str, option: str = SOURCES) -> Source:
    """Return the source of ``url`` if it is allowed. Runs in a native thread: links are followed.

    :param option: which prefixes it is held against
    :raises ImageUnavailable: if it is not
    """
    parts = _split(url)
    if parts.scheme == "file":
        source = Source(url, "file", _file_path(url, parts))
        check_place(source, os.path.realpath(source.path or ""), option)
        return source
    if parts.scheme == "glance" and option == SOURCES:
        return _glance(url, parts)
    if parts.scheme not in _DEFAULT_PORTS:
        raise _refused(url, f"{parts.scheme}:// is not offered for it")
    return _network(url, parts, option)


def _network(url: str, parts: urllib.parse.SplitResult, option: str) -> Source:
    host = _checked_host(url, parts)
    prefixes = [prefix for prefix in map(_split, _allowed(parts.scheme, option)) if _matches(parts, prefix)]
    if not prefixes:
        raise _refused(url, f"it is not in [images] {option}")
    inner = any(prefix.hostname and addresses.names_inner(prefix.hostname) for prefix in prefixes)
    if addresses.names_inner(host) and not inner:
        raise _refused(url, f"it is on this host or its link, which [images] {option} does not name")
    return Source(url, parts.scheme, inner=inner)


def _checked_host(url: str, parts: urllib.parse.SplitResult) -> str:
    """Return the host of a url that every parser understands alike."""
    if not _PRINTABLE.issuperset(url):
        raise _refused(url, "it has characters that have to be escaped")
    if parts.fragment:
        raise _refused(url, "# is to be written %23")
    host = parts.hostname or ""
    try:
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            ipaddress.IPv4Address(host)  # no 127.1, and no other ways to hide an address
        elif not _HOST.fullmatch(host):
            ipaddress.IPv6Address(host)
    except ValueError:
        raise _refused(url, "it names no host") from None
    return host


def _glance(url: str, parts: urllib.parse.SplitResult) -> Source:
    if not _IMAGE_ID.fullmatch(parts.netloc) or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _refused(url, "glance:// is followed by an image's id alone")
    for prefix in map(_split, _allowed("glance")):
        if prefix.netloc in ("", parts.netloc):
            return Source(url, "glance", image_id=parts.netloc)
    raise _refused(url, "it is not in [images] allowed_sources")


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
        check_place(source, real)
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


def check_place(source: Source, real: str, option: str = SOURCES) -> None:
    """Say whether ``real``, where a ``file://`` url has led to, is an allowed place.

    :raises ImageUnavailable: if it is not
    """
    if not any(real.startswith(directory.rstrip("/") + "/") for directory in directories(option)):
        raise _refused(source.url, f"it leads to a place that is not in [images] {option}")


def directories(option: str = SOURCES) -> list[str]:
    """Return the directories that ``file://`` urls may lead below; links in them are followed."""
    prefixes = _allowed("file", option)
    return [os.path.realpath(_file_path(prefix, _split(prefix))) for prefix in prefixes]


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


def _allowed(scheme: str, option: str = SOURCES) -> Sequence[str]:
    return [prefix for prefix in CONF.images[option] if prefix.lower().startswith(f"{scheme}:")]


def _matches(url: urllib.parse.SplitResult, prefix: urllib.parse.SplitResult) -> bool:
    if not url.hostname:
        return False
    if prefix.netloc and (url.hostname, _port(url)) != (prefix.hostname, _port(prefix)):
        return False
    return _below(url.path, prefix.path)


def _port(parts: urllib.parse.SplitResult) -> int | None:
    return _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port


def _below(path: str, prefix: str) -> bool:
    """Compare as the server may: it may unescape a path, even twice, before it looks for ``..``."""
    for form in _unescaped(path):
        segments = form.replace("\\", "/").split("/")
        if any(segment.partition(";")[0] in (".", "..") for segment in segments):
            return False
    if prefix in ("", "/"):
        return True
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _unescaped(path: str) -> Iterator[str]:
    """Yield ``path``, then unescaped once, and again, until that changes nothing."""
    yield path
    while (plain := urllib.parse.unquote(path)) != path:
        yield plain
        path = plain


def _refused(url: str, reason: str) -> errors.ImageUnavailable:
    return errors.ImageUnavailable(f"{shown(url)}: {reason}", retryable=False)


def _unreadable(source: Source, error: OSError) -> errors.ImageUnavailable:
    return errors.ImageUnavailable(f"{shown(source.url)}: {error.strerror or error}")

# SPDX-License-Identifier: Apache-2.0
"""The images on this host: fetched once, verified, inspected, then shared by every guest.

An image is known by its checksum, or else by its url together with what tells one version
of the source from the next, so that another image under an old name is another image. It
appears under its name when all is verified, with its stamp; a crash leaves nothing but a
``.part``, which the next fetch removes. However many wait for an image, one of them
fetches it; if that one is cancelled, the next goes on.
"""

import contextlib
import dataclasses
import hashlib
import os
import posix
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import msgspec

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import clock, errors
from compute_agent.model.image import DiskFormat, Image
from compute_agent.virt.images import fetch, inspection, second_opinion, sources, stamp
from compute_agent.virt.images.part import Part, disk_error, sweep
from compute_agent.virt.images.sources import Source
from compute_agent.virt.images.stamp import Stamp

P = ParamSpec("P")
T = TypeVar("T")

GIB = 2**30
PLAIN_FILE = "file"
"""In a stamp: not a disk image but a kernel or ramdisk, which was not inspected."""
_CONVERTED = frozenset({DiskFormat.VMDK, DiskFormat.VDI, DiskFormat.VHDX})
"""Formats that guests are not given: they become qcow2 in the cache."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedImage:
    """An image on this host, inspected. Sizes in bytes.

    :param format: what QEMU is to be told: ``raw`` or ``qcow2``
    :param sha256: of what was fetched, in hexadecimal
    """

    path: str
    format: str
    virtual_size: int
    sha256: str


class ImageCache:
    """The cache in one directory. One per process and directory; several hosts may share the directory.

    :param directory: absolute; made when the first image comes
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._pool = concurrency.NativePool("images", 8)
        self._known: dict[str, Stamp] = {}
        self._fetching: dict[str, _Fetching] = {}

    def ensure(self, image: Image) -> CachedImage:
        """Return ``image`` on this host. Fetches it if it is not here; a look at the disk if it is.

        :raises ImageUnavailable: if it can't be had, is truncated, or its source is not allowed
        :raises ImageUnsafe: if it is not what it is declared as, or refers to other files
        :raises ImageTooLarge: if it is over the agent's limits
        :raises ImageChecksumMismatch: if its bytes are not those of ``image.checksum``
        :raises DiskFull: if there is no room
        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        return self._ensure(_Wanted(image, inspect=True))

    def ensure_file(self, url: str) -> str:
        """Return the path of a kernel or ramdisk on this host. Raises as :meth:`ensure`."""
        return self._ensure(_Wanted(Image(url=url), inspect=False)).path

    def cached(self, image: Image) -> CachedImage | None:
        """Return what :meth:`ensure` would return at once, or None if it would have to fetch.

        :raises ImageUnavailable: if its source is not allowed, or is a file that can't be read
        """
        return self._call(self._look, _Wanted(image, inspect=True)).hit

    def close(self) -> None:
        """End the native threads."""
        self._pool.close()

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a native thread, for as long as the operation's deadline allows."""
        try:
            return self._pool.call_within(steps.current().remaining(), function, *args, **kwargs)
        except concurrency.TimedOut:
            raise errors.Timeout(f"the storage of {self.directory} or of the image does not answer") from None

    def _ensure(self, wanted: "_Wanted") -> CachedImage:
        while True:
            look = self._call(self._look, wanted)
            if look.hit is not None:
                return look.hit
            under_way = self._fetching.get(look.path)
            if under_way is None:
                return self._fetch_for_all(wanted, look)
            self._follow(under_way)

    def _look(self, wanted: "_Wanted") -> "_Look":
        """Find out which image is wanted and whether it is here. In a native thread."""
        source = sources.allow(wanted.image.url)
        path = os.path.join(self.directory, wanted.key(source))
        known = self._known.get(path)
        if known is None or not stamp.fits(path, known):
            known = stamp.read(path)
            if known is None:
                self._known.pop(path, None)
                return _Look(source, path, None)
            self._known[path] = known
        wanted.check_size(known.source_size)
        return _Look(source, path, _cached(path, known))

    def _follow(self, under_way: "_Fetching") -> None:
        """Wait for a fetch that another began; its failure is ours too, unless only it gave up."""
        work = steps.current()
        with work.waiting("another instance fetches the image"):
            work.wait(under_way.ended)
        error = under_way.error
        if error is not None and not isinstance(error, errors.Cancelled | errors.Timeout):
            raise errors.from_error(error.to_error())

    def _fetch_for_all(self, wanted: "_Wanted", look: "_Look") -> CachedImage:
        under_way = self._fetching[look.path] = _Fetching()
        try:
            return self._fetch(wanted, look)
        except errors.ComputeError as error:
            under_way.error = error
            raise
        finally:
            del self._fetching[look.path]
            under_way.ended.set()

    def _fetch(self, wanted: "_Wanted", look: "_Look") -> CachedImage:
        self._call(self._prepare, look.path)
        with self._part(look.path, wanted.algorithms) as part:
            limit = fetch.Limit(wanted.image.size_bytes, CONF.images.max_virtual_size_gb * GIB)
            fetch.fetch(look.source, part, self._call, headers=wanted.image.headers, limit=limit)
            self._call(self._verify, wanted, part)
            failpoints.hit("images.verified")
            if not wanted.inspect:
                return self._publish(wanted, part, part, PLAIN_FILE, part.size)
            found = self._call(self._inspect, wanted, part)
            second_opinion.check(part.path, found)
            if found.format not in _CONVERTED:
                name = "qcow2" if found.format is DiskFormat.QCOW2 else "raw"
                return self._publish(wanted, part, part, name, found.virtual_size)
            with self._part(look.path, ()) as converted:
                second_opinion.convert(part.path, found.format, converted.path)
                return self._publish(wanted, part, converted, "qcow2", found.virtual_size)

    @contextlib.contextmanager
    def _part(self, path: str, algorithms: tuple[str, ...]) -> Iterator[Part]:
        part = self._call(Part, path, algorithms)
        try:
            yield part
        finally:
            self._pool.call(part.close)

    def _prepare(self, path: str) -> None:
        """Make the directory and clear away what is there but not to be trusted. In a native thread."""
        try:
            os.makedirs(self.directory, mode=0o755, exist_ok=True)
            sweep(self.directory)
            if os.path.lexists(path):
                os.rename(path, f"{path}.damaged")
        except OSError as error:
            raise disk_error(error, self.directory) from None

    def _verify(self, wanted: "_Wanted", part: Part) -> None:
        """In a native thread."""
        part.complete()
        if part.size == 0:
            raise errors.ImageUnavailable(f"{sources.shown(wanted.image.url)}: it is empty", retryable=False)
        wanted.check_size(part.size)
        wanted.check_digest(part)

    def _inspect(self, wanted: "_Wanted", part: Part) -> inspection.Inspected:
        """In a native thread."""
        limit = CONF.images.max_virtual_size_gb * GIB
        return inspection.inspect(part.fd, wanted.image.disk_format, max_virtual_size=limit)

    def _publish(
        self, wanted: "_Wanted", fetched: Part, final: Part, disk_format: str, virtual_size: int
    ) -> CachedImage:
        return self._call(self._publish_now, wanted, fetched, final, disk_format, virtual_size)

    def _publish_now(
        self, wanted: "_Wanted", fetched: Part, final: Part, disk_format: str, virtual_size: int
    ) -> CachedImage:
        """Write the stamp, then give the image its name. In a native thread."""
        try:
            posix.fsync(final.fd)
            found = posix.fstat(final.fd)
            made = Stamp(
                url=sources.shown(wanted.image.url),
                format=disk_format,
                virtual_size=virtual_size,
                source_size=fetched.size,
                sha256=fetched.digest("sha256"),
                verified=wanted.image.checksum,
                size=found.st_size,
                mtime_ns=found.st_mtime_ns,
                made_at=clock.timestamp(),
            )
            stamp.write(final.final, made)
            failpoints.hit("images.stamped")
            final.publish()
        except OSError as error:
            raise disk_error(error, final.final) from None
        self._known[final.final] = made
        return _cached(final.final, made)


class _Fetching:
    def __init__(self) -> None:
        self.ended = concurrency.Event()
        self.error: errors.ComputeError | None = None


@dataclasses.dataclass(frozen=True)
class _Look:
    source: Source
    path: str
    hit: CachedImage | None


@dataclasses.dataclass(frozen=True)
class _Wanted:
    image: Image
    inspect: bool

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The hashes to compute: the one to verify, and the one that the stamp keeps."""
        name = (self.image.checksum or "sha256:").partition(":")[0]
        return ("sha256",) if name == "sha256" else ("sha256", name)

    def key(self, source: Source) -> str:
        """Return the image's name in the cache.

        :raises ImageUnavailable: if it goes by a file that can't be read
        """
        kind = str(self.image.disk_format) if self.inspect else PLAIN_FILE
        if self.image.checksum is not None:
            parts = [kind, self.image.checksum]
        else:
            parts = [kind, source.url, self.image.id or "", _version(source)]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:40]

    def check_size(self, size: int) -> None:
        """:raises ImageUnavailable: if ``size`` is not the one that was told"""
        told = self.image.size_bytes
        if told and told != size:
            raise errors.ImageUnavailable(
                f"{sources.shown(self.image.url)}: it has {size} bytes, size_bytes says {told}"
            )

    def check_digest(self, part: Part) -> None:
        """:raises ImageChecksumMismatch: if ``part``'s bytes are not those of the checksum"""
        name, _, told = (self.image.checksum or "").partition(":")
        if told and part.digest(name) != told:
            raise errors.ImageChecksumMismatch(
                f"{sources.shown(self.image.url)}: its {name} is {part.digest(name)}, not {told}"
            )


def _version(source: Source) -> str:
    if source.scheme != "file":
        return ""
    with sources.open_file(source) as file:
        return file.identity


def _cached(path: str, known: Stamp) -> CachedImage:
    return CachedImage(path=path, format=known.format, virtual_size=known.virtual_size, sha256=known.sha256)

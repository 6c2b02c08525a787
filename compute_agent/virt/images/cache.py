# SPDX-License-Identifier: Apache-2.0
"""The images on this host: fetched once, verified, inspected, then shared by every guest.

An image is known by its checksum, or else by its url together with what tells one version
of the source from the next, so that another image under an old name is another image. It
appears under its name when all is verified, with its stamp; a crash leaves nothing but a
``.part``, which the next fetch removes. However many wait for an image, one of them
fetches it; if that one is cancelled, the next goes on.
"""

import _thread
import contextlib
import dataclasses
import math
import os
import posix
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import clock, errors
from compute_agent.model.image import DiskFormat, Image
from compute_agent.virt.images import fetch, inspection, second_opinion, sources, stamp, usage
from compute_agent.virt.images.housekeeping import DAMAGED, Housekeeping
from compute_agent.virt.images.part import Part, disk_error, sweep
from compute_agent.virt.images.soundness import Soundness, digest
from compute_agent.virt.images.sources import Source
from compute_agent.virt.images.stamp import Stamp
from compute_agent.virt.images.wanted import PLAIN_FILE, Wanted

P = ParamSpec("P")
T = TypeVar("T")

GIB = 2**30
NOTE_S = 60.0
"""Between two notes that an image is used."""
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
        self._soundness = Soundness(directory, CONF.host_name)
        self._lock = _thread.RLock()  # of the kind that eventlet leaves alone: native threads share it
        self._noted: dict[str, float] = {}

    def ensure(self, image: Image) -> CachedImage:
        """Return ``image`` on this host. Fetches it if it is not here; a look at the disk if it is.

        :raises ImageUnavailable: if it can't be had, is truncated, or its source is not allowed
        :raises ImageUnsafe: if it is not what it is declared as, or refers to other files
        :raises ImageTooLarge: if it is over the agent's limits
        :raises ImageChecksumMismatch: if its bytes are not those of ``image.checksum``
        :raises DiskFull: if there is no room
        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        return self._ensure(Wanted(image, inspect=True))

    def ensure_file(self, url: str) -> str:
        """Return the path of a kernel or ramdisk on this host. Raises as :meth:`ensure`."""
        return self._ensure(Wanted(Image(url=url), inspect=False)).path

    def cached(self, image: Image) -> CachedImage | None:
        """Return what :meth:`ensure` would return at once, or None if it would have to fetch.

        :raises ImageUnavailable: if its source is not allowed, or is a file that can't be read
        """
        return self._call(self._look, Wanted(image, inspect=True)).hit

    def prefetch(self, images: Sequence[Image]) -> dict[str, Any]:
        """Fetch ``images`` before they are needed, all that can be had.

        Raises as :meth:`ensure` does: the first error.

        :return: names of those ``fetched``, and how many were ``cached`` already
        """
        fetched, failures = [], list[errors.ComputeError]()
        for image in images:
            try:
                here = self.cached(image) is not None
                made = self.ensure(image)
            except (errors.Cancelled, errors.Timeout):
                raise
            except errors.ComputeError as error:
                failures.append(error)
                continue
            if not here:
                fetched.append(os.path.basename(made.path))
        if failures:
            raise failures[0]
        return {"fetched": fetched, "cached": len(images) - len(fetched)}

    def manage(
        self,
        instances_path: str,
        in_use: Iterable[str] = (),
        keep: Iterable[Image] = (),
        files: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Drop unused images that are old, or too many; set damaged ones aside.

        :param instances_path: images that disks below it stand on are in use
        :param in_use: whatever names images that are in use: paths, domains' XML
        :param keep: images to keep, whether in use or not
        :param files: urls of kernels and ramdisks to keep
        :return: the fields of :class:`housekeeping.Report`
        :raises HypervisorError: if what is in use can't be told; nothing was dropped
        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        wanted = [Wanted(image, inspect=True) for image in keep]
        wanted += [Wanted(Image(url=url), inspect=False) for url in files]
        return self._call(self._manage, instances_path, list(in_use), wanted)

    def _manage(self, instances_path: str, in_use: list[str], wanted: list[Wanted]) -> dict[str, Any]:
        """In a native thread."""
        self._soundness.begin()
        used = usage.names_in(in_use) | usage.backing_names(instances_path, self.directory)
        for one in wanted:
            with contextlib.suppress(errors.ImageUnavailable):  # what can't be had now has no name to keep
                used.add(one.key(sources.allow(one.image.url)))
        used |= {os.path.basename(path) for path in list(self._fetching)}
        return dataclasses.asdict(Housekeeping(self.directory, used, self._soundness, self._forget).run())

    def close(self) -> None:
        """End the native threads, and note that this was a clean end."""
        self._soundness.end()
        self._pool.close()

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a native thread, for as long as the operation's deadline allows."""
        try:
            return self._pool.call_within(steps.current().remaining(), function, *args, **kwargs)
        except concurrency.TimedOut:
            raise errors.Timeout(f"the storage of {self.directory} or of the image does not answer") from None

    def _ensure(self, wanted: Wanted) -> CachedImage:
        while True:
            look = self._call(self._look, wanted)
            if look.hit is not None and not look.doubted:
                return look.hit
            under_way = self._fetching.get(look.path)
            if under_way is None:
                return self._fetch_for_all(wanted, look)
            self._follow(under_way)

    def _look(self, wanted: Wanted) -> "_Look":
        """Find out which image is wanted and whether it is here. In a native thread."""
        source = sources.allow(wanted.image.url)
        path = os.path.join(self.directory, wanted.key(source))
        self._soundness.begin()
        with self._lock:
            known = self._find(path)
        if known is None:
            return _Look(source, path, None)
        wanted.check_size(known.source_size)
        return _Look(source, path, known, self._soundness.doubts(path))

    def _find(self, path: str) -> Stamp | None:
        """Return the stamp of the image at ``path`` if it may be used, and note that it is."""
        known = self._known.get(path)
        if known is None or not stamp.fits(path, known):
            known = stamp.read(path)
            if known is None:
                self._known.pop(path, None)
                return None
            self._known[path] = known
        if time.monotonic() - self._noted.get(path, -math.inf) > NOTE_S:
            stamp.touch(path)
            self._noted[path] = time.monotonic()
        return known

    def _forget(self, path: str, age_s: float) -> bool:
        """Take an image's stamp away, unless it was used less than ``age_s`` ago. In a native thread."""
        with self._lock:
            if path in self._fetching or (age_s and clock.unix() - stamp.last_used_s(path) < age_s):
                return False
            self._known.pop(path, None)
            self._noted.pop(path, None)
            stamp.remove(path)
            return True

    def _follow(self, under_way: "_Fetching") -> None:
        """Wait for a fetch that another began; its failure is ours too, unless only it gave up."""
        work = steps.current()
        with work.waiting("another instance fetches the image"):
            work.wait(under_way.ended)
        error = under_way.error
        if error is not None and not isinstance(error, errors.Cancelled | errors.Timeout):
            raise errors.from_error(error.to_error())

    def _fetch_for_all(self, wanted: Wanted, look: "_Look") -> CachedImage:
        under_way = self._fetching[look.path] = _Fetching()
        try:
            return self._fetch(wanted, look)
        except errors.ComputeError as error:
            under_way.error = error
            raise
        finally:
            del self._fetching[look.path]
            under_way.ended.set()

    def _fetch(self, wanted: Wanted, look: "_Look") -> CachedImage:
        if look.known is not None and self._call(self._soundness.prove, look.path, look.known):
            return _cached(look.path, look.known)
        self._call(self._prepare, look.path)
        origin = fetch.locate(look.source, wanted.image, self._call)
        wanted = wanted.told(origin)
        with self._part(look.path, wanted.algorithms) as part:
            fetch.fetch(origin, part, self._call, most=CONF.images.max_virtual_size_gb * GIB)
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
            if not os.path.isdir(self.directory):
                os.makedirs(self.directory, exist_ok=True)
                # QEMU's user has to pass through, whatever our umask; what is here is nobody else's business.
                os.chmod(self.directory, 0o711)
            self._soundness.begin()
            sweep(self.directory)
            if os.path.lexists(path):
                os.rename(path, path + DAMAGED)
        except OSError as error:
            raise disk_error(error, self.directory) from None

    def _verify(self, wanted: Wanted, part: Part) -> None:
        """In a native thread."""
        part.complete()
        if part.size == 0:
            raise errors.ImageUnavailable(f"{sources.shown(wanted.image.url)}: it is empty", retryable=False)
        wanted.check_size(part.size)
        wanted.check_digest(part)

    def _inspect(self, wanted: Wanted, part: Part) -> inspection.Inspected:
        """In a native thread."""
        limit = CONF.images.max_virtual_size_gb * GIB
        return inspection.inspect(part.fd, wanted.image.disk_format, max_virtual_size=limit)

    def _publish(
        self, wanted: Wanted, fetched: Part, final: Part, disk_format: str, virtual_size: int
    ) -> CachedImage:
        return self._call(self._publish_now, wanted, fetched, final, disk_format, virtual_size)

    def _publish_now(
        self, wanted: Wanted, fetched: Part, final: Part, disk_format: str, virtual_size: int
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
                file_sha256=None if final is fetched else digest(final.path),
            )
            stamp.write(final.final, made)
            failpoints.hit("images.stamped")
            final.publish()
        except OSError as error:
            stamp.remove(final.final)
            raise disk_error(error, final.final) from None
        self._soundness.trust(final.final)
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
    known: Stamp | None
    doubted: bool = False

    @property
    def hit(self) -> CachedImage | None:
        return None if self.known is None else _cached(self.path, self.known)


def _cached(path: str, known: Stamp) -> CachedImage:
    return CachedImage(path=path, format=known.format, virtual_size=known.virtual_size, sha256=known.sha256)

# SPDX-License-Identifier: Apache-2.0
"""The sending of files to another host: in ranges, resumed where it was interrupted, and confirmed.

A file goes over as the bytes that it is on this host, holes as holes, so an encrypted disk stays encrypted
and nothing of a guest's is interpreted. After so much data the other end is made to bring it to its disk,
and only then it is noted here. When all of it is there it is read back and held against the file: what is
noted as sent is the same at both ends.
"""

import contextlib
import errno
import itertools
import logging
import posix
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import msgspec

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images.part import disk_error
from compute_agent.virt.libvirt.coldmigration import nbd, ranges, relay, transit

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MIB = 2**20
BLOCK_BYTES = 4 * MIB
_PACED_S = 0.25
_LEAVE_S = 10.0
NOTE = "progress"


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How the exports of the destination are reached.

    :param directory: of the transfer at this end, with its secret
    :param incarnation: of the files there: what was noted of others says nothing of these
    """

    directory: str
    address: str
    port: int
    incarnation: str


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """How far a file is. ``identity`` is what it was when it was read: if that changes, it begins anew."""

    identity: list[int]
    sent: int = 0
    confirmed: int = 0
    whole: bool = False


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a transfer is, by the names of the exports."""

    incarnation: str
    files: dict[str, Sent] = {}


class Pace:
    """Keeps to a bandwidth, and tells how far it is.

    :param total: bytes of data in all the files
    :param bandwidth_mib: MiB per second; 0: no limit
    """

    def __init__(self, total: int, bandwidth_mib: int, report: Callable[[int, int], object]) -> None:
        self.block = BLOCK_BYTES
        self._rate = bandwidth_mib * MIB
        if self._rate:
            self.block = max(ranges.SECTOR, min(BLOCK_BYTES, int(self._rate * _PACED_S)))
        self._total, self._done, self._report = total, 0, report
        self._next = time.monotonic()

    def counted(self, length: int) -> None:
        """Take down that so many bytes are there."""
        self._done += length
        self._report(self._done, max(self._total, self._done))

    def passed(self, length: int) -> None:
        """Take down that so many bytes went over the network; wait if it was too fast."""
        if not self._rate:
            return
        self._next = max(self._next, time.monotonic() - 1.0) + length / self._rate
        ahead = self._next - time.monotonic()
        if ahead > 0:
            steps.current().sleep(ahead)


class Sending:
    """The sending of the files of one guest. On the hub."""

    def __init__(self, way: Way, pace: Pace) -> None:
        self._way = way
        self._pace = pace
        noted = relay.POOL.call(transit.read, way.directory, NOTE, Progress)
        fits = noted is not None and noted.incarnation == way.incarnation
        self._files = dict(noted.files) if noted is not None and fits else {}

    def send(self, export: str, path: str) -> None:
        """Send a file, unless all of it was sent and confirmed before.

        :raises DestinationUnreachable: if the destination is gone; may be tried again
        :raises DiskFull: if the destination has no room
        :raises MigrationFailed: if it can't write what it gets, or does not keep it
        :raises HypervisorError, PermissionDenied: if the file can't be read
        :raises Cancelled, Timeout: if the operation is over
        """
        with _opened(path) as fd:
            found = self._known(export, fd)
            if found.whole:
                self._pace.counted(relay.POOL.call(_data_bytes, fd, found.sent))
                return
            with relay.connected(self._way.directory, self._way.address, self._way.port, export) as client:
                link = _Link(client, self._way)
                self._check_room(client, export, fd)
                found = self._push(link, export, fd, found)
                failpoints.hit("cold.pushed")
                found = self._confirm(link, export, fd, found)
                self._note(export, msgspec.structs.replace(found, whole=True))

    def _known(self, export: str, fd: int) -> Sent:
        identity = relay.POOL.call(_identity, fd)
        found = self._files.get(export)
        return found if found is not None and found.identity == identity else Sent(identity=identity)

    def _check_room(self, client: nbd.Client, export: str, fd: int) -> None:
        size = ranges.rounded(relay.POOL.call(posix.fstat, fd).st_size)
        if size > client.size:
            raise errors.MigrationFailed(
                f"{export} has grown to {size} bytes, the destination takes {client.size}", retryable=False
            )

    def _push(self, link: "_Link", export: str, fd: int, found: Sent) -> Sent:
        self._pace.counted(relay.POOL.call(_data_bytes, fd, found.sent))
        chunk, unnoted = CONF.libvirt.cold_migration_chunk * MIB, 0
        offset = found.sent
        while True:
            part = link.do(_next, fd, offset, self._pace.block)
            if part is None or unnoted >= chunk:
                link.do(link.client.flush)
                found, unnoted = msgspec.structs.replace(found, sent=offset), 0
                self._note(export, found)
                failpoints.hit("cold.noted")
            if part is None:
                return found
            link.do(_put, link.client, fd, part)
            offset = part.offset + part.length
            if part.data:
                unnoted += part.length
                self._pace.counted(part.length)
                self._pace.passed(part.length)

    def _confirm(self, link: "_Link", export: str, fd: int, found: Sent) -> Sent:
        """Read back what was sent. What is not the same is sent once more."""
        with steps.current().waiting(f"{export} is read back from {self._way.address}"):
            chunk, unnoted = CONF.libvirt.cold_migration_chunk * MIB, 0
            offset = found.confirmed
            while (part := link.do(_next, fd, offset, self._pace.block)) is not None:
                if part.data:
                    self._confirm_one(link, export, fd, part)
                    unnoted += part.length
                    self._pace.passed(part.length)
                offset = part.offset + part.length
                if unnoted >= chunk:
                    found, unnoted = msgspec.structs.replace(found, confirmed=offset), 0
                    self._note(export, found)
        return msgspec.structs.replace(found, confirmed=offset)

    def _confirm_one(self, link: "_Link", export: str, fd: int, part: ranges.Range) -> None:
        if link.do(_is_same, link.client, fd, part):
            return
        LOG.warning("%s is not what was sent at %d: it is sent again", export, part.offset)
        link.do(_put, link.client, fd, part)
        link.do(link.client.flush)
        if not link.do(_is_same, link.client, fd, part):
            raise errors.MigrationFailed(
                f"{self._way.address} does not keep what is sent: {export} differs at {part.offset}",
                retryable=False,
            )

    def _note(self, export: str, found: Sent) -> None:
        self._files[export] = found
        note = Progress(incarnation=self._way.incarnation, files=self._files)
        relay.POOL.call(transit.keep, self._way.directory, NOTE, note)


class _Link:
    """A client whose calls end when the operation does."""

    def __init__(self, client: nbd.Client, way: Way) -> None:
        self.client = client
        self._to, self._port = way.address, way.port

    def do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a native thread. Raises as :meth:`Sending.send`."""
        outcome: list[T] = []
        problem: list[Exception] = []
        ended = concurrency.Event()

        def call() -> None:
            try:
                outcome.append(relay.POOL.call(function, *args, **kwargs))
            except Exception as error:
                problem.append(error)
            finally:
                ended.set()

        concurrency.spawn(call)
        try:
            steps.current().wait(ended)
        except BaseException:
            self.client.close()  # that ends the call, whatever it waits for
            ended.wait(_LEAVE_S)
            raise
        if problem:
            raise self._typed(problem[0]) from problem[0]
        return outcome[0]

    def _typed(self, error: Exception) -> Exception:
        if isinstance(error, nbd.Refused):
            if error.number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return errors.DiskFull(f"{self._to} has no room for the disks", retryable=False)
            if relay.answers(self._to, self._port):
                return errors.MigrationFailed(f"{self._to} can't keep what is sent: {error}")
        if isinstance(error, nbd.Broken | nbd.Refused):
            return errors.DestinationUnreachable(f"{self._to} was lost: {error}", evidence=str(error))
        return error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = relay.POOL.call(_open, path)
    try:
        yield fd
    finally:
        relay.POOL.call(posix.close, fd)


def _open(path: str) -> int:
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError as error:
        raise disk_error(error, path) from None


def _identity(fd: int) -> list[int]:
    found = posix.fstat(fd)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]


def _data_bytes(fd: int, until: int) -> int:
    """Return how much data there is before ``until``."""
    parts = itertools.takewhile(
        lambda part: part.offset < until, ranges.all_of(fd, BLOCK_BYTES, nbd.MOST_ZEROS)
    )
    return sum(min(part.length, until - part.offset) for part in parts if part.data)


def _next(fd: int, offset: int, block: int) -> ranges.Range | None:
    return ranges.next_range(fd, offset, block - block % ranges.SECTOR, nbd.MOST_ZEROS)


def _put(client: nbd.Client, fd: int, part: ranges.Range) -> None:
    data = ranges.read(fd, part.offset, part.length) if part.data else b""
    if data and data.count(0) != len(data):
        client.write(part.offset, data)
    else:
        client.zero(part.offset, part.length)


def _is_same(client: nbd.Client, fd: int, part: ranges.Range) -> bool:
    return client.read(part.offset, part.length) == ranges.read(fd, part.offset, part.length)

# SPDX-License-Identifier: Apache-2.0
"""Bring what is at a url into a file in the making, taking it up again where it broke off.

What came counts only as long as it is sure to be of the same file: each request for the rest
names the version that the first one had (``If-Range``), and each answer is compared with it.
Where the version can't be told, or is another, everything begins afresh.
"""

import dataclasses
import re
from collections.abc import Callable

from compute_agent import failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import stream
from compute_agent.virt.images.limit import Limit, check_room
from compute_agent.virt.images.part import Part
from compute_agent.virt.images.stream import Lost, Stream
from compute_agent.virt.images.web import Answer, Call, Target

RETRY_S = 1.0
"""Until the first new attempt; twice as long until each next."""
RETRY_MOST_S = 30.0
RESTARTS = 3
"""How often a file may turn out to be another before it is given up."""
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")

Renew = Callable[[], Target]
"""Returns the target with fresh credentials."""


@dataclasses.dataclass(frozen=True)
class _Version:
    """What tells one version of a file from the next, as far as the server says."""

    etag: str
    modified: str
    total: int | None

    @property
    def validator(self) -> str:
        """For ``If-Range``: nothing if the server names none that is good enough."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def is_same(self, other: "_Version") -> bool:
        """Return whether nothing of ``other`` contradicts this."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified), (self.total, other.total))
        return all(mine == theirs for mine, theirs in pairs if mine and theirs)


class Download:
    """One download.

    :param call: runs a function in a native thread
    :param renew: for a target whose credentials may run out
    """

    def __init__(
        self, target: Target, part: Part, call: Call, limit: Limit, renew: Renew | None = None
    ) -> None:
        self._target = target
        self._part = part
        self._call = call
        self._limit = limit
        self._renew = renew
        self._version: _Version | None = None
        self._failures = self._restarts = 0
        self._best = 0

    def run(self) -> None:
        """Do it.

        :raises ImageUnavailable: if it can't be had whole
        :raises ImageTooLarge: if it is over the limit
        :raises DiskFull: if there is no room for it
        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        while True:
            try:
                with Stream(self._target, self._wanted(), self._call) as received:
                    if self._receive(received):
                        return
            except Lost as lost:
                self._wait_or_give_up(lost.error)

    def _wanted(self) -> dict[str, str]:
        """Return the headers that ask for what is missing."""
        if not self._part.size:
            return {}
        assert self._version is not None
        return {"Range": f"bytes={self._part.size}-", "If-Range": self._version.validator}

    def _receive(self, received: Stream) -> bool:
        """Take what comes; return False to ask again at once."""
        total = self._begin(received.answer())
        if total == _AGAIN:
            return False
        for chunk in received.chunks():
            self._call(self._part.take, chunk)
            failpoints.hit("images.fetch.chunk")
            steps.current().report(self._part.size, total)
            steps.current().check()
            self._limit.check(self._part.size)
        if total is not None and self._part.size != total:
            raise Lost(self._target.unavailable(f"{self._part.size} of {total} bytes came"))
        return True

    def _begin(self, answer: Answer) -> int | None:
        """Judge the head of an answer; return the whole file's bytes, or that it is to be asked again."""
        if answer.status == 401 and self._renew is not None:
            self._target, self._renew = self._renew(), None
            return _AGAIN
        if self._part.size and answer.status in (206, 416):
            return self._go_on(answer)
        self._check(answer)
        if self._part.size:  # another file by now, or a server that knows no ranges
            self._restart()
        self._version = _version(answer, answer.length)
        self._check_size(answer.length)
        return answer.length

    def _go_on(self, answer: Answer) -> int | None:
        found = _RANGE.fullmatch(answer.header("Content-Range"))
        total = int(found[3]) if found and found[3] != "*" else None
        assert self._version is not None
        follows = found is not None and int(found[1]) == self._part.size
        if answer.status == 416 or not follows or not self._version.is_same(_version(answer, total)):
            self._restart()
            return _AGAIN
        self._check_encoding(answer)
        total = total or self._version.total
        self._check_size(total)
        return total

    def _restart(self) -> None:
        self._restarts += 1
        if self._restarts > RESTARTS:
            raise self._target.unavailable("at each attempt it is another file, or sent from its beginning")
        self._call(self._part.restart)
        self._version, self._best = None, 0

    def _check(self, answer: Answer) -> None:
        if answer.status != 200:
            error = self._target.unavailable(
                f"the server answers {answer.status}",
                retryable=answer.status >= 500 or answer.status in (408, 425, 429),
            )
            raise Lost(error) if error.retryable else error
        self._check_encoding(answer)

    def _check_encoding(self, answer: Answer) -> None:
        encoding = answer.header("Content-Encoding") or "identity"
        if encoding.lower() != "identity":
            raise self._target.unavailable(f"the server sends it encoded as {encoding[:64]}", retryable=False)

    def _check_size(self, total: int | None) -> None:
        if total is not None:
            self._limit.check(total)
            check_room(total - self._part.size, self._part)

    def _wait_or_give_up(self, error: errors.ComputeError) -> None:
        """Wait before the next attempt; or raise ``error`` if there were enough without getting further."""
        if self._part.size - self._best >= stream.CHUNK_BYTES:
            self._failures, self._best = 0, self._part.size
        self._failures += 1
        if self._failures > CONF.images.download_retries:
            raise error
        if self._part.size and not (self._version and self._version.validator):
            self._restart()
        with steps.current().waiting(f"the image's source failed: {error.message}"[:512]):
            steps.current().sleep(min(RETRY_S * 2 ** (self._failures - 1), RETRY_MOST_S))


_AGAIN = -1
"""In place of a size: ask again."""


def _version(answer: Answer, total: int | None) -> _Version:
    return _Version(answer.header("ETag"), answer.header("Last-Modified"), total)

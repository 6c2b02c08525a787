# SPDX-License-Identifier: Apache-2.0
"""Send a file to a server by HTTP PUT, hashed on its way.

It is sent in a greenthread of its own, so that whoever waits for it can give up at any moment:
when the operation is cancelled, when its deadline passes, when the server takes less than it
should. A PUT replaces what it puts, so one that failed in a way that may be over soon is made again,
from the beginning; not after a crash, though: then nobody knows what has arrived.
"""

import hashlib
import logging
import posix
import time
from collections.abc import Iterator

from compute_agent import concurrency, failpoints, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import web
from compute_agent.virt.images.web import Call, Target

LOG = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024
CHUNK_BYTES = 4 * 2**20
RETRY_S = 1.0
"""Until the first new attempt; twice as long until each next."""
RETRY_MOST_S = 30.0
_STORED = frozenset({200, 201, 202, 204})
_FOR_NOW = frozenset({408, 425, 429})


class Upload:
    """One file on its way.

    :param fd: of the file; it must not change meanwhile
    :param size: its bytes
    :param call: runs a function in a native thread
    """

    def __init__(self, target: Target, fd: int, size: int, call: Call) -> None:
        self._target = target
        self._fd = fd
        self._size = size
        self._call = call
        self._hash = hashlib.sha256()
        self._sent = 0

    def run(self) -> str:
        """Send it; return its SHA-256 in hexadecimal.

        :raises ImageUnavailable: if the server does not take it
        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        for attempt in range(CONF.images.download_retries + 1):
            try:
                return self._attempt()
            except errors.ImageUnavailable as error:
                if not error.retryable or attempt == CONF.images.download_retries:
                    raise
                with steps.current().waiting(f"the snapshot's destination failed: {error.message}"[:512]):
                    steps.current().sleep(min(RETRY_S * 2**attempt, RETRY_MOST_S))
        raise AssertionError("unreachable")

    def _attempt(self) -> str:
        self._hash, self._sent = hashlib.sha256(), 0
        sending = _Sending()
        task = concurrency.spawn(self._send, sending)
        try:
            self._follow(sending)
        finally:
            task.kill()
        if sending.error is not None:
            raise sending.error
        self._judge_status(sending.status)
        return self._hash.hexdigest()

    def _follow(self, sending: "_Sending") -> None:
        """Wait for the end, and judge the server by what it takes."""
        window = float(CONF.images.download_timeout)
        work, before = steps.current(), 0
        while not work.wait(sending.ended, window):
            took, before = self._sent - before, self._sent
            if took < max(1, CONF.images.min_download_rate_kb * 1024 * window):
                raise self._target.unavailable(
                    f"the server is too slow: it took {took} bytes in {window:g} s"
                )

    def _judge_status(self, status: int) -> None:
        if status in _STORED and self._sent == self._size:
            return
        if status in _STORED:
            raise self._target.unavailable(f"the server took {self._sent} of {self._size} bytes")
        passing = status >= 500 or status in _FOR_NOW
        raise self._target.unavailable(f"the server answers {status}", retryable=passing)

    # --- in the other greenthread ------------------------------------------------------------------

    def _send(self, sending: "_Sending") -> None:
        try:
            with web.put(self._target, self._pieces(), self._size, self._call) as answer:
                sending.status = answer.status
        except errors.ComputeError as error:
            sending.error = error
        except Exception as error:
            LOG.exception("a snapshot could not be sent")
            sending.error = errors.unexpected(error)
        sending.ended.set()

    def _pieces(self) -> Iterator[bytes]:
        """Read the file; what was taken counts as sent."""
        work, at, began = steps.current(), 0, time.monotonic()
        while chunk := self._call(self._read, at):
            at += len(chunk)
            for start in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[start : start + PIECE_BYTES]
                yield piece
                self._sent += len(piece)
                concurrency.sleep(0)  # a fast server must not keep the hub for itself
            failpoints.hit("images.upload.chunk")
            work.report(self._sent, self._size)
        LOG.debug("%d bytes were sent in %.1f s", at, time.monotonic() - began)

    def _read(self, at: int) -> bytes:
        """In a native thread."""
        chunk = posix.pread(self._fd, min(CHUNK_BYTES, self._size - at), at)
        self._hash.update(chunk)
        return chunk


class _Sending:
    def __init__(self) -> None:
        self.ended = concurrency.Event()
        self.status = 0
        self.error: errors.ComputeError | None = None

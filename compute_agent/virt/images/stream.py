# SPDX-License-Identifier: Apache-2.0
"""What a server sends, received in a greenthread of its own.

Whoever waits for it can therefore give up at any moment: when the operation is cancelled,
when its deadline passes, when the server is slower than it may be. Sockets alone would tell
only of a server that is silent, not of one that sends a byte now and then for ever. The next
chunk is received while the last one is written.
"""

import logging
import time
from collections.abc import Iterator, Mapping

from compute_agent import concurrency, steps
from compute_agent.conf import CONF
from compute_agent.model import errors
from compute_agent.virt.images import web
from compute_agent.virt.images.sources import shown
from compute_agent.virt.images.web import Answer, Call, Target

LOG = logging.getLogger(__name__)

CHUNK_BYTES = 4 * 2**20


class Lost(Exception):
    """The connection, or the server, failed in a way that may be over soon.

    :param error: what to tell if it is not
    """

    def __init__(self, error: errors.ComputeError) -> None:
        super().__init__(error.message)
        self.error = error


class Stream:
    """One request and its answer. Use it in a ``with`` statement."""

    def __init__(self, target: Target, extra: Mapping[str, str], call: Call) -> None:
        self._target = target
        self._extra = extra
        self._call = call
        self._ready, self._taken = concurrency.Event(), concurrency.Event()
        self._item: Answer | bytes | errors.ComputeError | None = None
        self._received = self._judged = 0
        self._waited = 0.0
        self._task: concurrency.Task | None = None

    def __enter__(self) -> "Stream":
        self._task = concurrency.spawn(self._pump)
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.kill()

    def answer(self) -> Answer:
        """Wait for the head of the answer, whatever its status.

        :raises Lost: if none came
        :raises ImageUnavailable: if it may not be asked for, or is too slow
        :raises Cancelled: when the operation is cancelled; :raises Timeout: when its deadline passes
        """
        answer = self._take()
        assert isinstance(answer, Answer)
        return answer

    def chunks(self) -> Iterator[bytes]:
        """Yield the body. Raises as :meth:`answer`."""
        while isinstance(chunk := self._take(), bytes):
            yield chunk

    def _take(self) -> Answer | bytes | None:
        while not self._ready.is_set():
            self._await()
        item, self._item = self._item, None
        self._ready.clear()
        self._taken.set()
        if isinstance(item, errors.ComputeError):
            if isinstance(item, errors.ImageUnavailable) and item.retryable:
                raise Lost(item)
            raise item
        return item

    def _await(self) -> None:
        """Wait a while, and judge the server by what came. Time in which we wrote does not count."""
        window = float(CONF.images.download_timeout)
        started = time.monotonic()
        steps.current().wait(self._ready, max(0.01, window - self._waited))
        self._waited += time.monotonic() - started
        if self._waited >= window and not self._ready.is_set():
            self._judge(window)

    def _judge(self, window: float) -> None:
        came, self._judged = self._received - self._judged, self._received
        waited, self._waited = self._waited, 0.0
        least = CONF.images.min_download_rate_kb * 1024
        if came == 0 or came < least * waited:
            raise errors.ImageUnavailable(
                f"{shown(self._target.url)}: the server is too slow: {came} bytes in {window:g} s",
                hint="[images] download_timeout and min_download_rate_kb say how slow it may be",
            )

    # --- in the other greenthread ------------------------------------------------------------------

    def _pump(self) -> None:
        try:
            with web.ask(self._target, self._extra, self._call) as answer:
                self._offer(answer)
                self._gather(answer)
            self._offer(None)
        except errors.ComputeError as error:
            self._offer(error)
        except Exception as error:
            LOG.exception("an answer could not be received")
            self._offer(errors.unexpected(error))

    def _gather(self, answer: Answer) -> None:
        gathered = bytearray()
        for piece in answer.pieces():
            gathered += piece
            self._received += len(piece)
            if len(gathered) >= CHUNK_BYTES:
                self._offer(bytes(gathered))
                gathered.clear()
            concurrency.sleep(0)  # a fast server must not keep the hub for itself
        if gathered:
            self._offer(bytes(gathered))

    def _offer(self, item: Answer | bytes | errors.ComputeError | None) -> None:
        self._item = item
        self._ready.set()
        self._taken.wait()
        self._taken.clear()

# SPDX-License-Identifier: Apache-2.0
"""Publishes the outbox: in order, each event confirmed before it counts as sent.

The broker may be away for as long as it likes; what waits is in the state file, and no
operation waits for it. An event may be sent twice (a crash between its confirmation and
the note of it), never not at all.

Confirmations are waited for in windows, not one by one, which triples the rate. The broker
takes what comes over one connection in order, so when that breaks it has the first events of
the window and gets the rest again. Should it refuse one in the middle (a receiver's queue is full and
rejects), later ones of that window may come before it: that receiver sees the gap in ``seq``. What
follows goes one by one, until nothing has been refused for a while.
"""

import collections
import itertools
import logging
import random
import time

import msgspec

from compute_agent import concurrency, failpoints
from compute_agent.events.sink import Sink, SinkUnavailable
from compute_agent.model import errors
from compute_agent.model.event import Event
from compute_agent.store import outbox
from compute_agent.store.database import Store

LOG = logging.getLogger(__name__)

BATCH = 100
FRESH_LIMIT = 1000
"""Events that are kept in memory at most, so that they need not be read back."""
NOTE_INTERVAL_S = 0.1
SLOW_S = 5.0
"""An attempt that lasts longer is a problem worth telling, in seconds."""
RETRY_S = (0.1, 5.0)
"""First and longest pause between two attempts, in seconds."""
CAREFUL_S = 60.0
"""For how long events go one by one after one was refused, in seconds."""
EPHEMERAL_LIMIT = 100
"""Ephemeral events that may wait; further ones are dropped."""


class Publisher:
    """Sends what the outbox holds.

    :param store: where the outbox is; its ``on_events`` becomes this publisher's alarm clock
    :param sink: takes the events
    """

    def __init__(self, store: Store, sink: Sink) -> None:
        self._store = store
        self._sink = sink
        self._news = concurrency.Event()
        self._stopping = concurrency.Event()
        self._sent = store.read(outbox.sent_seq)
        self._noted = self._sent
        self._noted_at = time.monotonic()
        self._ephemeral: concurrency.Queue[tuple[Event, float]] = concurrency.Queue(EPHEMERAL_LIMIT)
        self._away_since: float | None = None
        self._problem: str | None = None
        self._attempt_since: float | None = None
        self._dropping_since: float | None = None
        self._careful_until = 0.0
        self._window = BATCH
        self._pause = RETRY_S[0]
        self._tasks: list[concurrency.Task] = []
        self._fresh: collections.deque[Event] = collections.deque()
        self._behind = True
        store.on_events = self._committed

    @property
    def sent_seq(self) -> int:
        """Up to which ``seq`` everything was confirmed."""
        return self._sent

    @property
    def away_s(self) -> float | None:
        """For how many seconds the broker has taken no event; None while it takes them."""
        return None if self._away_since is None else time.monotonic() - self._away_since

    @property
    def problem(self) -> str | None:
        """Why events are kept, and since when; None while the broker takes them."""
        now, since, why = time.monotonic(), self._away_since or self._dropping_since, self._problem
        if since is None and self._attempt_since is not None and now - self._attempt_since > SLOW_S:
            since, why = self._attempt_since, "the broker does not answer"
        return None if since is None else f"{why} (for {now - since:.0f} s)"

    def start(self) -> None:
        """Begin to send."""
        self._tasks = [concurrency.spawn(self._run), concurrency.spawn(self._run_ephemeral)]
        self._news.set()

    def stop(self, timeout: float = 1.0) -> None:
        """Send what is there, for ``timeout`` seconds at most, and stop."""
        self._stopping.set()
        self._news.set()
        deadline = time.monotonic() + timeout
        while self._tasks and not self._tasks[0].ended and time.monotonic() < deadline:
            concurrency.sleep(0.005)
        for task in self._tasks:
            task.kill()
        try:
            self._store.write(lambda tx: outbox.mark_sent(tx, self._sent))
        except errors.ComputeError as error:
            LOG.warning("the last events will be sent again: %s", error.message)

    def send_ephemeral(self, event: Event, expires_after_s: float) -> None:
        """Send an event that is not stored. Dropped when the broker is away or too many wait."""
        if self._away_since is None and len(self._ephemeral) < EPHEMERAL_LIMIT:
            self._ephemeral.put((event, expires_after_s))

    def _committed(self, events: list[Event]) -> None:
        """Take events that were just written; too many of them are read back from the outbox instead."""
        self._fresh.extend(events)
        if len(self._fresh) > FRESH_LIMIT:
            self._fresh.clear()
            self._behind = True
        self._news.set()

    def _next(self) -> list[Event]:
        """Return the next events to send: from memory if they are there, else from the outbox."""
        while self._fresh and (self._fresh[0].seq or 0) <= self._sent:
            self._fresh.popleft()
        if self._fresh and self._fresh[0].seq == self._sent + 1:
            return list(itertools.islice(self._fresh, BATCH))
        if not self._fresh and not self._behind:
            return []
        found = self._store.read(lambda tx: outbox.unsent(tx, self._sent, BATCH))
        self._behind = len(found) == BATCH
        return found

    def _run(self) -> None:
        going_on = True
        while going_on:
            try:
                going_on = self._send_what_is_there()
            except Exception:  # events wait until it is mended, and nobody else would begin again
                LOG.exception("events can't be sent for now")
                concurrency.sleep(RETRY_S[1])

    def _send_what_is_there(self) -> bool:
        """Send a batch, or wait for news; return False at the end."""
        batch = self._next()
        idle = not batch
        while batch:
            batch = batch[self._send(batch) :]
        self._note(now=idle)
        if idle:
            if self._stopping.is_set():
                return False
            self._news.wait()
            self._news.clear()
        return True

    def _send(self, events: list[Event]) -> int:
        """Send the first of ``events``; return how many the broker has confirmed."""
        window = events[: self._window]
        self._attempt_since = time.monotonic()
        try:
            failpoints.hit("publish.before")
            self._sink.publish_all([(msgspec.to_builtins(event), _context(event)) for event in window])
            failpoints.hit("publish.after")
        except SinkUnavailable as error:
            self._confirm(window[: error.confirmed])
            self._window = 1
            if error.refused:
                self._careful_until = time.monotonic() + CAREFUL_S
            self._broker_is_away(error)
            self._attempt_since = None
            concurrency.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(self._pause * 2, RETRY_S[1])
            return error.confirmed
        finally:
            self._attempt_since = None
        self._confirm(window)
        self._broker_is_back()
        self._window = 1 if time.monotonic() < self._careful_until else BATCH
        self._pause = RETRY_S[0]
        return len(window)

    def _confirm(self, events: list[Event]) -> None:
        if events:
            assert events[-1].seq is not None
            self._sent = events[-1].seq

    def _note(self, now: bool) -> None:
        due = time.monotonic() - self._noted_at >= NOTE_INTERVAL_S
        if self._sent == self._noted or not (now or due):
            return
        if now and not due and not self._stopping.is_set() and self._news.wait(NOTE_INTERVAL_S):
            return
        self._noted, self._noted_at = self._sent, time.monotonic()
        self._store.submit(lambda tx, seq=self._sent: outbox.mark_sent(tx, seq))  # type: ignore[misc]

    def _run_ephemeral(self) -> None:
        while True:
            event, expires_after_s = self._ephemeral.get()
            try:
                self._sink.publish(
                    msgspec.to_builtins(event), context=_context(event), expires_after_s=expires_after_s
                )
            except SinkUnavailable as error:
                LOG.debug("an ephemeral event was dropped: %s", error)
                self._problem = str(error)
                self._dropping_since = self._dropping_since or time.monotonic()
            except Exception:
                LOG.exception("an ephemeral event was dropped")
            else:
                self._dropping_since = None

    def _broker_is_away(self, error: Exception) -> None:
        self._problem = str(error)
        if self._away_since is None:
            self._away_since = time.monotonic()
            LOG.warning("the broker takes no events, they are kept: %s", error)

    def _broker_is_back(self) -> None:
        self._dropping_since = None
        if self._away_since is not None:
            LOG.info("the broker takes events again after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None


def _context(event: Event) -> dict[str, object]:
    context = event.data.get("context")
    if isinstance(context, dict):
        return dict(context)
    return {"request_id": event.request_id} if event.request_id else {}

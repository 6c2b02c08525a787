# SPDX-License-Identifier: Apache-2.0
"""The only module that knows which kind of threads the agent runs on.

The agent's own code runs in greenthreads (eventlet) on one hub. Whatever may take over a
millisecond (libvirt, qemu-img, hashing, commits) runs in a :class:`NativePool`, and comes
back through an :class:`Inbox`, the one way from a native thread to the hub. Should the
backend change one day, this file is where it changes.

Every primitive here belongs to the hub's thread; only :meth:`Inbox.put` may be called from
elsewhere.
"""

import collections
import contextvars
import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Generic, ParamSpec, TypeVar

with warnings.catch_warnings():
    # Eventlet announces at import that it is in maintenance; docs/decisions says why it is used.
    warnings.simplefilter("ignore")
    import eventlet
    import eventlet.event
    import eventlet.hubs
    import eventlet.patcher
    import eventlet.queue
    import eventlet.semaphore

P = ParamSpec("P")
T = TypeVar("T")

LOG = logging.getLogger(__name__)

_native_threading = eventlet.patcher.original("threading")
_native_queue = eventlet.patcher.original("queue")
_native_os = eventlet.patcher.original("os")
_native_time = eventlet.patcher.original("time")

Semaphore = eventlet.semaphore.Semaphore
sleep = eventlet.sleep
native_sleep = _native_time.sleep
"""For native threads, which have no hub to wait in."""


def patch() -> None:
    """Make the standard library green and choose oslo.service's backend. Before any other import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eventlet.monkey_patch()
        from oslo_service import backend

        backend.init_backend(backend.BackendType.EVENTLET)


class TimedOut(Exception):
    """A wait ended before what it waited for came. Layers above turn it into their typed error."""


class Event:
    """A flag that greenthreads wait for."""

    def __init__(self) -> None:
        self._event = eventlet.event.Event()
        self._observers: list[Event] = []

    def is_set(self) -> bool:
        """Return whether the flag is up."""
        return bool(self._event.ready())

    def set(self) -> None:
        """Raise the flag and wake every waiter. Repeating it is harmless."""
        if not self._event.ready():
            self._event.send(True)
        for observer in self._observers:
            observer.set()

    def clear(self) -> None:
        """Lower the flag."""
        if self._event.ready():
            self._event = eventlet.event.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is up, at most ``timeout`` seconds; return whether it is."""
        if self._event.ready():
            return True
        if timeout is not None and timeout <= 0:
            return False
        self._event.wait(timeout)
        return bool(self._event.ready())


def wait_any(events: Iterable[Event], timeout: float | None = None) -> bool:
    """Wait until one of ``events`` is set, at most ``timeout`` seconds; return whether one is."""
    events = tuple(events)
    if any(event.is_set() for event in events):
        return True
    either = Event()
    for event in events:
        event._observers.append(either)
    try:
        return either.wait(timeout)
    finally:
        for event in events:
            event._observers.remove(either)


class Queue(Generic[T]):
    """A queue between greenthreads."""

    def __init__(self, limit: int | None = None) -> None:
        self._queue = eventlet.queue.LightQueue(limit)

    def put(self, item: T) -> None:
        """Append ``item``; waits while the queue is full."""
        self._queue.put(item)

    def get(self, timeout: float | None = None) -> T:
        """Take the oldest item.

        :raises TimedOut: if none came within ``timeout`` seconds
        """
        try:
            item: T = self._queue.get(timeout=timeout)
        except eventlet.queue.Empty:
            raise TimedOut from None
        return item

    def __len__(self) -> int:
        return int(self._queue.qsize())


class Task:
    """A greenthread that was started."""

    def __init__(self, thread: Any) -> None:
        self._thread = thread

    def wait(self) -> Any:
        """Wait for its end and return what it returned; None when it was killed."""
        try:
            return self._thread.wait()
        except eventlet.greenlet.GreenletExit:
            return None

    def kill(self) -> None:
        """End it at its next wait."""
        self._thread.kill()

    @property
    def ended(self) -> bool:
        """True when it runs no more."""
        return bool(self._thread.dead)


def spawn(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Task:
    """Start ``function`` in a greenthread with a copy of the caller's context variables."""
    context = contextvars.copy_context()
    return Task(eventlet.spawn(context.run, _logged, function, *args, **kwargs))


def _logged(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    try:
        return function(*args, **kwargs)
    except Exception:
        LOG.exception("%s ended by an error", getattr(function, "__qualname__", function))
        return None


def start_native_thread(function: Callable[[], object], name: str) -> None:
    """Run ``function`` for ever in a native thread that does not keep the process alive."""
    _native_threading.Thread(target=function, name=name, daemon=True).start()


class Inbox(Generic[T]):
    """Items from native threads, handed to ``handler`` one by one in a greenthread, in order."""

    def __init__(self, handler: Callable[[T], object]) -> None:
        self._handler = handler
        self._items: collections.deque[T] = collections.deque()
        self._reader, self._writer = _native_os.pipe()
        for end in (self._reader, self._writer):
            _native_os.set_blocking(end, False)
        self._task = spawn(self._pump)

    def put(self, item: T) -> None:
        """Hand over ``item``. May be called from any native thread; never blocks."""
        self._items.append(item)
        try:
            _native_os.write(self._writer, b".")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already
        except OSError:
            LOG.debug("an item came after its inbox was closed")

    def close(self) -> None:
        """Stop handing over. Items that come later are dropped."""
        self._task.kill()
        writer, self._writer = self._writer, CLOSED  # its number may soon be another file's
        _native_os.close(self._reader)
        _native_os.close(writer)

    def _pump(self) -> None:
        while True:
            eventlet.hubs.trampoline(self._reader, read=True)
            _native_os.read(self._reader, 65536)
            while self._items:
                self._handle(self._items.popleft())

    def _handle(self, item: T) -> None:
        try:
            self._handler(item)
        except Exception:
            LOG.exception("an item from a native thread was not handled")


class Call(Generic[T]):
    """A function on its way through a native thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.context = contextvars.copy_context()
        self.ended = Event()
        self.abandoned = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run it; in the native thread."""
        try:
            self.result = self.context.run(self.function)
        except BaseException as error:
            self.error = error


CLOSED = -1
"""Stands for a file descriptor that is no more: writing to it fails."""

ABANDONED: contextvars.ContextVar[list[Call[Any]] | None] = contextvars.ContextVar("abandoned", default=None)
"""Where a pool notes the calls that were given up by whoever set this list."""


class NativePool:
    """Native threads for what blocks.

    A call that is over its time is given up: its caller goes on with :class:`TimedOut`, the
    thread is written off and another may take its place, so that one hung guest costs one
    thread and not the pool. Threads start when they are needed.

    :param name: of the threads, for stack dumps
    :param size: how many calls may run at once, those given up not counted
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._calls = _native_queue.SimpleQueue()
        self._returned: Inbox[Call[Any]] | None = None
        self._threads = 0
        self._busy = 0
        self._given_up = 0

    @property
    def given_up(self) -> int:
        """How many calls were given up and have not come back."""
        return self._given_up

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` in a native thread; wait for it without blocking the hub."""
        return self.call_within(None, function, *args, **kwargs)

    def call_within(
        self, timeout: float | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As :meth:`call`, giving up after ``timeout`` seconds.

        :raises TimedOut: after ``timeout``; the call is in :data:`ABANDONED` if that is set
        """
        call = self._submit(lambda: function(*args, **kwargs))
        if not call.ended.wait(timeout):
            self._give_up(call)
            raise TimedOut
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]

    def close(self) -> None:
        """Let the threads end, one that is in a call with it; what that brings is dropped.

        A later call makes the pool anew.
        """
        for _ in range(self._threads):
            self._calls.put(None)
        if self._returned is not None:
            self._returned.close()
        self._calls, self._returned = _native_queue.SimpleQueue(), None
        self._threads = self._busy = self._given_up = 0

    def _submit(self, function: Callable[[], T]) -> Call[T]:
        if self._returned is None:
            self._returned = Inbox(self._came_back)
        call = Call(function)
        self._busy += 1
        if self._busy + self._given_up > self._threads and self._threads < self.size + self._given_up:
            self._threads += 1
            start_native_thread(functools.partial(self._work, self._calls, self._returned), self.name)
        self._calls.put(call)
        return call

    @staticmethod
    def _work(calls: Any, returned: Inbox[Call[Any]]) -> None:
        while (call := calls.get()) is not None:
            if not call.abandoned:  # else it waited for a thread until nobody wanted it any more
                call.run()
            returned.put(call)
            if call.abandoned:
                return
            del call

    def _came_back(self, call: Call[Any]) -> None:
        if call.abandoned:
            self._given_up -= 1
            self._threads -= 1
            LOG.warning("a call that was given up has come back: %s", self.name)
        else:
            self._busy -= 1
        call.ended.set()

    def _give_up(self, call: Call[Any]) -> None:
        call.abandoned = True
        self._busy -= 1
        self._given_up += 1
        noted = ABANDONED.get()
        if noted is not None:
            noted.append(call)


class BatchWorker(Generic[T]):
    """One native thread that is handed whatever has gathered since it last looked, in order.

    :param handle: called in the native thread with at least one item
    """

    def __init__(self, name: str, handle: Callable[[list[T]], object], limit: int = 256) -> None:
        self._handle = handle
        self._limit = limit
        self._items = _native_queue.SimpleQueue()
        start_native_thread(self._run, name)

    def put(self, item: T) -> None:
        """Hand over ``item``; never blocks."""
        self._items.put(item)

    def close(self) -> None:
        """Let the thread end when it has handled what came before."""
        self._items.put(None)

    def _run(self) -> None:
        while True:
            batch = [self._items.get()]
            while len(batch) < self._limit and not self._items.empty():
                batch.append(self._items.get())
            ends = None in batch
            items = [item for item in batch if item is not None]
            if items:
                self._handle_safely(items)
            if ends:
                return

    def _handle_safely(self, items: list[T]) -> None:
        try:
            self._handle(items)
        except Exception:
            LOG.exception("%d items were not handled", len(items))


class HubMonitor:
    """Measures for how long the hub was kept from running (in ms)."""

    INTERVAL_S = 0.05

    def __init__(self) -> None:
        self.worst_ms = 0.0
        self._task = spawn(self._watch)

    def take_worst(self) -> float:
        """Return the longest delay since the last call, and begin anew."""
        worst, self.worst_ms = self.worst_ms, 0.0
        return worst

    def stop(self) -> None:
        """Stop measuring."""
        self._task.kill()

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            sleep(self.INTERVAL_S)
            late = time.monotonic() - before - self.INTERVAL_S
            self.worst_ms = max(self.worst_ms, late * 1000)

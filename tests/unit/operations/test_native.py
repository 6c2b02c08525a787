# SPDX-License-Identifier: Apache-2.0
"""Native threads: what was given up, and what must not end with one bad item."""

from compute_agent import concurrency


def test_a_call_that_was_given_up_before_its_turn_is_never_made() -> None:
    pool, gate = concurrency.NativePool("test", 1), concurrency._native_threading.Event()
    made: list[str] = []
    first = concurrency.spawn(pool.call, gate.wait, 10)
    concurrency.sleep(0.02)
    try:
        pool.call_within(0.05, made.append, "late")
    except concurrency.TimedOut:
        made.append("given up")
    gate.set()
    first.wait()
    pool.call(made.append, "next")
    concurrency.sleep(0.05)
    assert made == ["given up", "next"]
    assert pool.given_up == 0
    pool.close()


def test_a_worker_outlives_an_item_that_it_cannot_handle() -> None:
    handled = concurrency.Queue[int]()
    inbox: concurrency.Inbox[int] = concurrency.Inbox(handled.put)

    def handle(items: list[int]) -> None:
        for item in items:
            inbox.put(10 // item)

    worker = concurrency.BatchWorker("test", handle, limit=1)
    worker.put(0)
    worker.put(5)
    assert handled.get(timeout=5) == 2
    worker.close()
    inbox.close()

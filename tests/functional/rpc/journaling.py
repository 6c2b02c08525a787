# SPDX-License-Identifier: Apache-2.0
"""A process that journals the messages of the queue, on the agent's kind of threads, and may kill itself.

`python -m tests.functional.rpc.journaling URL HOST FILE BATCH POINT`: each body becomes a line of FILE,
on disk before it is acknowledged; BATCH is how many are taken at once. POINT is where it dies by SIGKILL:
`before` the first batch is journalled, `after` that but before its acknowledgement, `acknowledged` when the
next batch comes; or `never`, and it ends when its input does.
"""

# ruff: noqa: E402 (the kind of threads has to be chosen before anything else is imported)

from compute_agent import concurrency

concurrency.patch()

import os
import select
import signal
import sys

from oslo_config import cfg

from compute_agent.rpc.consumer import Consumer, RawMessage
from compute_agent.rpc.transport import create_transport


def main(url: str, host: str, path: str, size: str, point: str) -> None:
    """Journal until told to end."""
    batches = 0

    def on_batch(messages: list[RawMessage]) -> None:
        nonlocal batches
        batches += 1
        if (point, batches) in (("before", 1), ("acknowledged", 2)):
            os.kill(os.getpid(), signal.SIGKILL)
        with open(path, "ab") as journal:
            journal.writelines(bytes(message.body) + b"\n" for message in messages)
            journal.flush()
            os.fsync(journal.fileno())
        if point == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        for message in messages:
            message.ack()

    cfg.CONF([], project="compute-agent", default_config_files=[])
    consumer = Consumer(create_transport(cfg.CONF, url), server=host, on_batch=on_batch, batch_size=int(size))
    consumer.start()
    select.select([sys.stdin], [], [])
    consumer.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

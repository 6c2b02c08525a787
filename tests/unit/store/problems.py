# SPDX-License-Identifier: Apache-2.0
"""What a test writes into a state file, to see later what of it is there."""

from typing import Any

from compute_agent.model.event import EventType
from compute_agent.store import outbox
from compute_agent.store.database import Store


def tell(text: str) -> Any:
    """A write: an event with this text."""
    return lambda tx: outbox.append(tx, EventType.HOST_PROBLEM, data={"problem": text})


def told(store: Store) -> list[str]:
    """The texts that were written, in order."""
    return [event.data["problem"] for event in store.read(lambda tx: outbox.unsent(tx, 0, 100))]

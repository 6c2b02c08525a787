# SPDX-License-Identifier: Apache-2.0
"""Questions about what happened: events again, and everything as it is now."""

from typing import Any

import msgspec

from compute_agent.manager.manager import Manager, as_of
from compute_agent.model import errors, questions
from compute_agent.model.secrets import redacted
from compute_agent.store import host, instances, journal, outbox
from compute_agent.store.database import Transaction

REPLY_ROOM = 900_000
"""Bytes of events that one answer holds at most, so that it stays below the limit of a reply."""


def get_events(manager: Manager, asked: questions.GetEvents) -> dict[str, Any]:
    """Events after ``since``, oldest first. What is not there any more is answered by a gap."""

    def read(tx: Transaction) -> dict[str, Any]:
        answer: dict[str, Any] = {"events": [], "gap": None, "next_since": asked.since, "as_of": as_of(tx)}
        gap = _gap(tx, asked)
        if gap is not None:
            return answer | {"gap": gap}
        found = outbox.since(
            tx, asked.since, types=asked.types, instance_uuid=asked.instance_uuid, limit=asked.limit
        )
        events = _that_fit([msgspec.to_builtins(event) for event in found])
        last = events[-1]["seq"] if events else asked.since
        if len(events) == len(found) < asked.limit:
            last = max(last, outbox.last_seq(tx))
        return answer | {"events": events, "next_since": last}

    return manager.store.read(read)


def _gap(tx: Transaction, asked: questions.GetEvents) -> dict[str, Any] | None:
    if asked.epoch is not None and asked.epoch != tx.identity.epoch:
        return {
            "reason": "epoch",
            "epoch": tx.identity.epoch,
            "hint": "ask get_snapshot, then go on from its as_of",
        }
    oldest = outbox.oldest_kept(tx)
    if asked.since + 1 < oldest:
        return {
            "reason": "retention",
            "oldest": oldest,
            "hint": "ask get_snapshot, then go on from its as_of",
        }
    return None


def _that_fit(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    room = REPLY_ROOM
    for number, event in enumerate(events):
        room -= len(msgspec.json.encode(event))
        if room < 0:
            return events[:number]
    return events


def get_snapshot(manager: Manager, asked: questions.GetSnapshot) -> dict[str, Any]:
    """All instances and live operations, a page at a time, to begin with after a gap.

    Every page carries the ``as_of`` of the first one: replaying the events after it makes
    any page that was read later consistent with it.
    """
    first = asked.marker is None
    seq, uuid = _marker(asked.marker)

    def read(tx: Transaction) -> dict[str, Any]:
        page = instances.page(tx, state=None, managed=None, marker=uuid, limit=asked.limit + 1)
        now = as_of(tx) if first else as_of(tx) | {"seq": seq}
        shown = page[: asked.limit]
        more = len(page) > asked.limit
        return {
            "instances": [redacted(record) for record in shown],
            "operations": [msgspec.to_builtins(operation) for operation in journal.live(tx)] if first else [],
            "reasons": host.reasons(tx) if first else None,
            "next_marker": f"{now['seq']}/{shown[-1].uuid}" if more else None,
            "as_of": now,
        }

    answer = manager.store.read(read)
    if first and manager.hypervisor_away is None:
        answer["resources"] = manager.driver.get_available_resource(manager.identity.host)
    return answer


def _marker(marker: str | None) -> tuple[int, str | None]:
    if marker is None:
        return 0, None
    seq, slash, uuid = marker.partition("/")
    if not (slash and seq.isdigit()):
        raise errors.InvalidArguments("marker is not one of get_snapshot's")
    return int(seq), uuid


ANSWERS = {"get_events": get_events, "get_snapshot": get_snapshot}

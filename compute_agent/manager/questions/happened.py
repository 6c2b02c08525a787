# SPDX-License-Identifier: Apache-2.0
"""Questions about what happened: events again, and everything as it is now."""

import logging
from typing import Any

import msgspec

from compute_agent import concurrency
from compute_agent.manager.manager import Manager, as_of
from compute_agent.manager.questions.paging import REPLY_ROOM, page_of, size, that_fit
from compute_agent.model import errors, questions
from compute_agent.model.secrets import redacted
from compute_agent.store import host, instances, journal, outbox
from compute_agent.store.database import Transaction

LOG = logging.getLogger(__name__)

OPERATIONS = "operations/"
"""Marks a page that goes on with the live operations."""


def get_events(manager: Manager, asked: questions.GetEvents) -> dict[str, Any]:
    """Events after ``since``, oldest first. What is not there any more is answered by a gap."""

    def read(tx: Transaction) -> dict[str, Any]:
        now = as_of(tx)  # first: what comes while this reads is for the next question
        answer: dict[str, Any] = {"events": [], "gap": None, "next_since": asked.since, "as_of": now}
        gap = _gap(tx, asked, now["seq"])
        if gap is not None:
            return answer | {"gap": gap}
        found = outbox.since(
            tx, asked.since, types=asked.types, instance_uuid=asked.instance_uuid, limit=asked.limit
        )
        events, more = page_of([_fitting(msgspec.to_builtins(event)) for event in found], asked.limit)
        last = events[-1]["seq"] if events else asked.since
        if not more and len(found) < asked.limit:
            last = max(last, now["seq"])
        return answer | {"events": events, "next_since": last}

    return manager.store.read(read)


def _gap(tx: Transaction, asked: questions.GetEvents, newest: int) -> dict[str, Any] | None:
    if asked.epoch not in (None, tx.identity.epoch) or asked.since > newest:
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


def _fitting(event: dict[str, Any]) -> dict[str, Any]:
    """An event that no reply could hold is told without its data, and says so."""
    bytes_ = size(event)
    return event if bytes_ <= REPLY_ROOM else event | {"data": {"omitted_bytes": bytes_}}


def get_snapshot(manager: Manager, asked: questions.GetSnapshot) -> dict[str, Any]:
    """All live operations and all instances, a page at a time, to begin with after a gap.

    Every page carries the ``as_of`` of the first one: replaying the events after it makes
    any page that was read later consistent with it.
    """
    first = asked.marker is None
    seq, place = _marker(asked.marker)

    def read(tx: Transaction) -> dict[str, Any]:
        now = as_of(tx) if first else as_of(tx) | {"seq": seq}
        operations, more = _operations(tx, place)
        room = REPLY_ROOM - sum(size(operation) for operation in operations)
        shown, following = ([], place) if more else _instances(tx, place, asked.limit, room)
        if more:
            following = f"{OPERATIONS}{operations[-1]['operation_id']}"
        return {
            "instances": shown,
            "operations": operations,
            "reasons": host.reasons(tx) if first else None,
            "next_marker": None if following is None else f"{now['seq']}/{following}",
            "as_of": now,
        }

    answer = manager.store.read(read)
    return answer | {"resources": _resources(manager)} if first else answer


def _operations(tx: Transaction, place: str) -> tuple[list[dict[str, Any]], bool]:
    """The live operations that come at ``place``, and whether more follow: they come before the instances."""
    if not place.startswith(OPERATIONS):
        return [], False
    live = journal.live(tx, after=place.removeprefix(OPERATIONS))
    return page_of([msgspec.to_builtins(operation) for operation in live], len(live))


def _instances(tx: Transaction, place: str, limit: int, room: int) -> tuple[list[dict[str, Any]], str | None]:
    """The instances that come at ``place``, and the place that follows; None if that is the end."""
    last = "" if place.startswith(OPERATIONS) else place
    page = instances.page(tx, state=None, managed=None, marker=last, limit=limit + 1)
    plain = [redacted(record) for record in page]
    shown = that_fit(plain[:limit], room)
    if not shown and room == REPLY_ROOM:
        shown = plain[:1]
    if len(shown) == len(plain):
        return shown, None
    return shown, shown[-1]["uuid"] if shown else last


def _resources(manager: Manager) -> dict[str, Any] | None:
    """What the host has; None while the hypervisor does not say, since the record does not wait for it."""
    if manager.hypervisor_away is not None:
        return None
    try:
        return dict(manager.driver.get_available_resource(manager.identity.host))
    except (errors.ComputeError, concurrency.TimedOut) as error:
        LOG.debug("a snapshot has no resources: %r", error)
        return None


def _marker(marker: str | None) -> tuple[int, str]:
    """Return the first page's ``seq``, and where to go on: after a uuid, or among the operations."""
    if marker is None:
        return 0, OPERATIONS
    seq, slash, place = marker.partition("/")
    if not (slash and seq.isdecimal()):
        raise errors.InvalidArguments("marker is not one of get_snapshot's")
    return int(seq), place


ANSWERS = {"get_events": get_events, "get_snapshot": get_snapshot}

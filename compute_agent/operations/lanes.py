# SPDX-License-Identifier: Apache-2.0
"""Who may run when: lanes, and the places that limits give.

- Operations of one lane run one after another, in the order in which they came; lanes run side by side, as
  many as the limits let.
- Control verbs stand in no lane: they run at once.
- A detached verb only waits for other operations. It stands in line until it begins; then its lane goes on
  beside it, and it takes no place from those that it waits for.
- A native call that an operation has given up keeps its lane closed until it has come back, to all but what
  takes the instance away.
- When the engine stops, nobody's turn comes any more.
"""

import collections
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from compute_agent import concurrency
from compute_agent.conf import CONF
from compute_agent.model.operation import Lane
from compute_agent.operations.entry import Entry
from compute_agent.operations.limits import Limit
from compute_agent.operations.verbs import Verb

Run = Callable[[Entry], list[concurrency.Call[Any]]]
"""Runs an operation to its end and returns the native calls that it has given up."""


class Lanes:
    """The operations that wait for their turns.

    :param table: the verbs; their limits are the limits
    :param roomy: whether the state disk has room for more than ends
    :param stopping: set when the engine stops
    """

    def __init__(
        self, table: Mapping[str, Verb], run: Run, roomy: concurrency.Event, stopping: concurrency.Event
    ) -> None:
        self._run = run
        self._roomy = roomy
        self._stopping = stopping
        self._lanes: dict[str, collections.deque[Entry]] = {}
        self._unanswered: dict[str, list[concurrency.Call[Any]]] = {}
        self._general = Limit(lambda: CONF.journal.max_running)
        self._limits = {
            option: Limit(lambda option=option: getattr(CONF, option))  # type: ignore[misc]
            for verb in table.values()
            for option in {verb.limit, *verb.limits.values()} - {None}
        }

    def add(self, entry: Entry) -> None:
        """Run an operation at its turn: at the end of its lane, or at once if it stands in none."""
        if entry.verb.lane is Lane.CONTROL:
            concurrency.spawn(self._run, entry)
            return
        lane = self._lanes.get(entry.lane)
        if lane is not None:
            lane.append(entry)
            return
        self._lanes[entry.lane] = collections.deque([entry])
        concurrency.spawn(self._work_off, entry.lane)

    def position(self, entry: Entry) -> int:
        """Return an operation's place in its line, from 1; 0 if it stands in none."""
        lane = self._lanes.get(entry.lane, ())
        return next((n for n, other in enumerate(lane, start=1) if other is entry), 0)

    def refresh_limits(self) -> None:
        """Let in who fits after the configuration changed."""
        for limit in (self._general, *self._limits.values()):
            limit.refresh()

    def _work_off(self, name: str) -> None:
        lane = self._lanes[name]
        while lane and not self._stopping.is_set():
            self._await_answers(lane[0])
            entry = lane.popleft()
            if entry.verb.detached:
                concurrency.spawn(self._run, entry)
                concurrency.wait_any((entry.begun, entry.ended, self._stopping))
            elif not entry.ended.is_set():
                self._take_turn(entry)
        if not lane:
            del self._lanes[name]

    def _await_answers(self, entry: Entry) -> None:
        """Wait for the native calls that earlier operations of the lane have given up.

        What takes the instance away is not held up: its end is also the end of what hangs.
        """
        for call in self._unanswered.pop(entry.lane, []):
            if not (entry.verb.preempts or entry.ended.is_set()):
                entry.waiting_for = "the answer to a call of an earlier operation"
                concurrency.wait_any((call.ended, entry.unwanted), None)
            if not call.ended.is_set():
                self._unanswered.setdefault(entry.lane, []).append(call)

    def _take_turn(self, entry: Entry) -> None:
        """Run an operation, when there is a place for it. No place is held for what it has given up."""
        with contextlib.ExitStack() as places:
            if entry.limit is not None:
                entry.waiting_for = f"a place within {entry.limit}"
                places.enter_context(self._limits[entry.limit].place(entry.unwanted))
            entry.waiting_for = "a free place to run"
            places.enter_context(self._general.place(entry.unwanted))
            if not entry.interrupted:  # what has begun may end, with the reserve
                entry.waiting_for = "room on the state disk"
                concurrency.wait_any((self._roomy, entry.unwanted))
            if given_up := self._run(entry):
                self._unanswered.setdefault(entry.lane, []).extend(given_up)

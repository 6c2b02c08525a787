# SPDX-License-Identifier: Apache-2.0
"""What the engine knows of a verb: one row of the table that the manager declares.

The engine runs by it, the reference is generated from it, and the tests of every driver
walk it, so none of them can disagree about a verb.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

from compute_agent.model.arguments import PEER_VERBS, VERBS, Arguments
from compute_agent.model.instance import InstanceRecord
from compute_agent.model.operation import Lane, Operation
from compute_agent.model.states import InstanceState
from compute_agent.steps import Work


class Recovery(enum.StrEnum):
    """What becomes of an operation that a crash interrupted."""

    REPEAT = "repeat"
    """it is begun again: its steps find out what is there, or doing it twice is harmless"""
    INTERRUPTED = "interrupted"
    """its effect can't be observed: it ends ``Interrupted`` and is never done again in silence"""
    UNDONE = "undone"
    """likewise, but it leaves traces that can be observed: they are removed before it ends"""


class OnFailure(enum.StrEnum):
    """What becomes of the instance's record when the verb fails."""

    FOLLOW = "follow"
    """its state is the one that its power state shows"""
    REMOVE = "remove"
    """nothing remains of it"""
    ERROR = "error"
    """unless it still runs as it should, it is unfit: state ``error`` with the reason"""
    AS_BEFORE = "as before"
    """all is undone, so it is as it was; if something can't be undone it is unfit: state ``error``"""


class Unfinished(Exception):
    """Raised by a verb that only waits when the agent stops: it goes on after the next start."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a verb's function works on."""

    operation: Operation
    arguments: Any
    record: InstanceRecord | None
    work: Work

    @property
    def instance(self) -> InstanceRecord:
        """The record of the instance that the verb is about."""
        assert self.record is not None
        return self.record


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a verb went, and what it changes in the instance's record.

    :param state: the instance's new state; None: unchanged, or followed if it is a settled one
    :param follow: whatever the state was, it is now the one that the power state shows
    :param change: makes the new record from the one that stands when the operation ends
    :param gone: the record becomes a tombstone
    :param forgotten: the record is struck, without a tombstone
    """

    result: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: InstanceState | None = None
    follow: bool = False
    change: Callable[[InstanceRecord], InstanceRecord] | None = None
    gone: bool = False
    forgotten: bool = False


Perform = Callable[[Any, Job], Outcome | None]


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb.

    :param perform: does it; given the manager and the job
    :param starts_from: the states that it may start from; None: it is not about the state
    :param already: states in which there is nothing to do, and it succeeds
    :param working: the instance's state while it runs; None: unchanged
    :param makes: it brings an instance, which must not be there
    :param optional: the instance need not be on record
    :param preempts: what is queued or running for the instance is cancelled first
    :param limit: the option that says how many may run at once
    :param limits: that option by the value of the argument ``mode``, where it depends on that
    :param detached: it only waits for other operations: its lane goes on once it has begun, and it takes no
        place to run
    :param timeout_s: its deadline when the caller gives none; None: ``operation_timeout``
    :param lifecycle: the lifecycle events that it causes, in order, for a running guest
    :param probe: how its effect is observed, for the reference
    """

    name: str
    perform: Perform
    lane: Lane = Lane.INSTANCE
    starts_from: frozenset[InstanceState] | None = None
    already: frozenset[InstanceState] = frozenset()
    working: InstanceState | None = None
    makes: bool = False
    optional: bool = False
    preempts: bool = False
    limit: str | None = None
    limits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    detached: bool = False
    timeout_s: float | None = None
    lifecycle: tuple[str, ...] = ()
    recovery: Recovery = Recovery.REPEAT
    on_failure: OnFailure = OnFailure.FOLLOW
    probe: str = ""

    @property
    def arguments(self) -> type[Arguments]:
        """The type of its arguments."""
        return VERBS[self.name] if self.name in VERBS else PEER_VERBS[self.name]

    def limit_of(self, values: Mapping[str, Any]) -> str | None:
        """The option that limits how many of an operation's kind run at once; None if none does."""
        return self.limits.get(str(values.get("mode")), self.limit)

    @property
    def starts(self) -> bool:
        """Whether it may end with a guest that runs and did not before."""
        return not {"started", "resumed"}.isdisjoint(self.lifecycle)

    @property
    def about_instance(self) -> bool:
        """Whether it names an instance."""
        return "instance_uuid" in self.arguments.__struct_fields__ or self.makes


def verb(name: str, **row: Any) -> Callable[[Perform], Verb]:
    """Declare the function below as a verb. The keywords are the fields of :class:`Verb`."""

    def declare(function: Perform) -> Verb:
        return Verb(name=name, perform=function, **row)

    return declare


def table(*modules: Any) -> Mapping[str, Verb]:
    """Return all verbs that ``modules`` declare, by name.

    :raises ValueError: if a verb is declared twice, or one of the interface is missing
    """
    found: dict[str, Verb] = {}
    for module in modules:
        for item in vars(module).values():
            if isinstance(item, Verb):
                if item.name in found:
                    raise ValueError(f"verb {item.name} is declared twice")
                found[item.name] = item
    if missing := VERBS.keys() - found.keys():
        raise ValueError(f"verbs are not declared: {', '.join(sorted(missing))}")
    return found

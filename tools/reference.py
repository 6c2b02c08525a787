# SPDX-License-Identifier: Apache-2.0
"""The reference of the interface, from the tables and types that the agent runs by. For tools/generate.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import markup

from compute_agent.manager import TABLE
from compute_agent.manager import questions as answers
from compute_agent.model import schemas, states
from compute_agent.model.arguments import VERBS, Arguments
from compute_agent.model.errors import ComputeError, Error
from compute_agent.model.event import EPHEMERAL, EventType
from compute_agent.model.instance import Instance
from compute_agent.model.operation import Lane, Operation
from compute_agent.model.questions import QUESTIONS
from compute_agent.operations.verbs import OnFailure, Recovery, Verb

HEAD = """\
<!-- Generated from the code by `make generate`. Change the docstrings and tables there, not this file. -->

# Reference

What an agent understands and tells. The same as JSON Schemas: [`schema/`](schema/), one file per verb,
question and kind of message. Exact messages to test a client against: [`wire/`](wire/). On a shell:
`compute-agentctl VERB --help`, `compute-agentctl schema NAME`.

- [Verbs](#verbs): [what every verb takes](#every-verb-takes), [as a table](#table-of-verbs),
  [one by one](#verbs-one-by-one)
- [Questions](#questions)
- [Instance](#instance)
- [Operation](#operation)
- [States](#states)
- [Events](#events)
- [Errors](#errors)
- [Configuration](#configuration)
"""

VERBS_TEXT = """\
Sent by cast, or by call, which returns the operation's record once it is in the agent's journal. Either way
the verb becomes an *operation* with exactly one end: `succeeded`, `failed` or `cancelled`.
"""

TABLE_TEXT = """\
- *Lane*: {lanes}.
- *May start from*: the instance's states; any other is `InvalidState`.
- *Already so*: states in which there is nothing to do, and it succeeds.
- *Limit*: the option that says how many may run at once.
- *Lifecycle*: the `instance.lifecycle.*` events that it causes when the guest runs, in order, before its end.
"""

RECOVERY_TEXT = """\
- *After a crash* of the agent: `repeat`, {repeat}; `interrupted`, {interrupted}.
- *If it fails*, the instance's state: `follow`, {follow}; `remove`, {remove}; `error`, {error}.
- *Observed by*: how the agent finds out whether it is done.
"""

STATES_TEXT = """\
The *state* is what the verbs made of an instance; the *power state* beside it is what the hypervisor shows.
What a guest or a person at the hypervisor does is followed, never fought.
"""

EVENTS_TEXT = """\
At least once, in the order of `seq`. A receiver drops what it has by (`host_id`, `epoch`, `seq`) and ignores
types and fields that it does not know. *Ephemeral* events are not stored: they carry `last_seq` instead.
"""

EVENTS: Mapping[EventType, str] = {
    EventType.LIFECYCLE_STARTED: "a guest runs",
    EventType.LIFECYCLE_STOPPED: "a guest is off",
    EventType.LIFECYCLE_PAUSED: "its processors are held",
    EventType.LIFECYCLE_RESUMED: "they go on",
    EventType.LIFECYCLE_SUSPENDED: "its memory was written to disk",
    EventType.LIFECYCLE_CRASHED: "its process ended; `data` has the last words: QEMU's log and the console",
    EventType.LIFECYCLE_POSTCOPY_STARTED: "it goes on at the destination of a migration, its memory follows",
    EventType.LIFECYCLE_MIGRATION_COMPLETED: "it has left the source of a migration",
    EventType.INSTANCE_UPDATED: "an instance's record changed; `data`: the record",
    EventType.INSTANCE_REMOVED: "an instance is gone from the record",
    EventType.OPERATION_ACCEPTED: "it is in the journal; `data` of operation events: its record",
    EventType.OPERATION_STARTED: "its turn has come",
    EventType.OPERATION_SUCCEEDED: "its end: done, or already so",
    EventType.OPERATION_FAILED: "its end: failed, with the error",
    EventType.OPERATION_CANCELLED: "its end: cancelled",
    EventType.OPERATION_REJECTED: "a message that could not become one, with what was readable of it",
    EventType.OPERATION_PROGRESS: "how far it is, at most once per second",
    EventType.HOST_REPORT: "the heartbeat, every `report_interval`: resources, counts, versions, `last_seq`",
    EventType.HOST_HELLO: "the host has booted; its instances wait for `confirm_instances`",
    EventType.HOST_ENABLED: "it takes new guests again",
    EventType.HOST_DISABLED: "it takes none, and why",
    EventType.HOST_PROBLEM: "something on the host needs a person",
    EventType.HOST_STATE_RESET: "the state was lost: a new epoch; `data` says what did not come back",
    EventType.HOST_ORPHAN_FOUND: "something that nobody has on record; `list_orphans` tells all",
    EventType.HOST_PLACEMENT_NEEDED: "an instance has to leave and has no destination",
}
"""When each type is sent."""

CONFIGURATION_TEXT = """\
[`etc/compute-agent.conf.sample`](../etc/compute-agent.conf.sample) has every option with its default and
meaning, generated from the tables that the agent reads. `compute-agent --check-config` tells what is wrong
with a file, `compute-agent-status check` whether the host is fit.
"""


def reference() -> str:
    """Return the reference, in Markdown."""
    parts = (_verbs, _questions, _instance, _operation, _states, _events, _errors, _configuration)
    blocks = [HEAD, *(block for part in parts for block in part())]
    return "\n".join(block.strip("\n") + "\n" for block in blocks)


def summaries() -> str:
    """Return one line per verb and question, as JSON: the help of compute-agentctl, which imports neither."""
    found = {name: markup.summary(TABLE[name].perform.__doc__) for name in VERBS}
    found |= {name: markup.summary(answers.TABLE[name].__doc__) for name in QUESTIONS}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


# --- sections --------------------------------------------------------------------------------------


def _verbs() -> Iterator[str]:
    yield markup.title(2, "Verbs")
    yield VERBS_TEXT
    yield markup.title(3, "Every verb takes")
    yield markup.arguments("spawn", only=Arguments.__struct_fields__)
    yield markup.title(3, "Table of verbs")
    yield TABLE_TEXT.format(lanes=", ".join(f"`{lane.value}` {note}" for lane, note in LANES.items()))
    heads = ("verb", "lane", "may start from", "already so", "limit", "lifecycle")
    yield markup.table(heads, (_verb_row(TABLE[name]) for name in VERBS))
    yield RECOVERY_TEXT.format(**{kind.value: note for kind, note in RECOVERY.items()})
    after = ("verb", "after a crash", "if it fails", "observed by")
    yield markup.table(after, (_crash_row(TABLE[name]) for name in VERBS))
    yield markup.title(3, "Verbs one by one")
    for name in VERBS:
        yield markup.title(4, f"`{name}`")
        yield markup.prose(TABLE[name].perform.__doc__)
        yield markup.arguments(name, without=Arguments.__struct_fields__)


LANES = {
    Lane.INSTANCE: "first in, first out per instance",
    Lane.CONTROL: "at once",
    Lane.HOST: "first in, first out for the host",
}
RECOVERY = {
    Recovery.REPEAT: "it is begun again, and its steps find out what is there already",
    Recovery.INTERRUPTED: "its effect can't be observed, so it ends `failed` with `Interrupted`",
    OnFailure.FOLLOW: "is the one that its power state shows",
    OnFailure.REMOVE: "nothing remains of it",
    OnFailure.ERROR: "`error`, unless the guest still runs as it should",
}


def _verb_row(verb: Verb) -> tuple[str, ...]:
    lane = verb.lane.value + (", first cancels what is queued or running" if verb.preempts else "")
    lane += ", which goes on once it has begun" if verb.detached else ""
    return (
        f"[`{verb.name}`](#{verb.name})",
        lane,
        _from(verb),
        markup.codes(verb.already),
        f"`{verb.limit}`" if verb.limit else "",
        ", ".join(verb.lifecycle),
    )


def _from(verb: Verb) -> str:
    if verb.makes:
        return "no such instance"
    if not verb.about_instance:
        return "–"
    if verb.starts_from is None:
        return "any" + (", or none such" if verb.optional else "")
    return markup.codes(verb.starts_from)


def _crash_row(verb: Verb) -> tuple[str, ...]:
    return (f"`{verb.name}`", verb.recovery.value, verb.on_failure.value, verb.probe)


def _questions() -> Iterator[str]:
    yield markup.title(2, "Questions")
    yield "Asked by call; they change nothing. Every answer carries `as_of: {host, host_id, epoch, seq}`."
    for name in QUESTIONS:
        yield markup.title(4, f"`{name}`")
        yield markup.prose(answers.TABLE[name].__doc__)
        yield markup.arguments(name)


def _instance() -> Iterator[str]:
    yield markup.title(2, "Instance")
    yield "Only `uuid`, `flavor` and one of `image`, `kernel`, a block device with `boot_index` 0 are needed."
    yield "An unknown field is refused by its name, unless it begins with `x_`."
    yield from _objects("instance", Instance.__name__)


def _operation() -> Iterator[str]:
    yield markup.title(2, "Operation")
    yield from _objects("operation", Operation.__name__)


def _objects(schema: str, first: str) -> Iterator[str]:
    definitions = schemas.schema(schema)["$defs"]
    for name in sorted(definitions, key=lambda name: name != first):
        if "properties" in definitions[name] and name != Error.__name__:
            yield markup.title(4, name)
            yield markup.properties(definitions[name], definitions)


def _states() -> Iterator[str]:
    yield markup.title(2, "States")
    yield STATES_TEXT
    meanings = markup.documented(states.InstanceState)
    rows = (
        (
            f"`{state.value}`",
            meanings[state.name],
            markup.codes(states.TRANSITIONS[state] - {state}),
            _startable(state),
        )
        for state in states.InstanceState
    )
    yield markup.table(("state", "meaning", "may become", "verbs that may start from it"), rows)
    yield "A state follows what the hypervisor shows of a settled instance:"
    shown = ((f"{seen.name.lower()} ({seen.value})", f"`{to.value}`") for seen, to in states.FOLLOWED.items())
    yield markup.table(("power state", "state"), shown)


def _startable(state: states.InstanceState) -> str:
    names = [
        name
        for name, verb in TABLE.items()
        if verb.starts_from is not None and state in verb.starts_from and verb.about_instance
    ]
    return ", ".join(f"`{name}`" for name in VERBS if name in names)


def _events() -> Iterator[str]:
    yield markup.title(2, "Events")
    yield EVENTS_TEXT
    definitions = schemas.schema("event")["$defs"]
    yield markup.properties(definitions["Event"], definitions)
    rows = ((f"`{kind.value}`", EVENTS[kind], "ephemeral" if kind in EPHEMERAL else "") for kind in EventType)
    yield markup.table(("type", "when", ""), rows)


def _errors() -> Iterator[str]:
    yield markup.title(2, "Errors")
    definitions = schemas.schema("error")["$defs"]
    yield markup.properties(definitions["Error"], definitions)
    rows = (
        (
            f"`{code}`",
            markup.prose(kind.__doc__),
            "yes" if kind.default_retryable else "",
            kind.default_hint or "",
        )
        for code, kind in ComputeError.by_code.items()
    )
    yield markup.table(("code", "when", "retryable", "hint"), rows)


def _configuration() -> Iterator[str]:
    yield markup.title(2, "Configuration")
    yield CONFIGURATION_TEXT

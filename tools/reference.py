# SPDX-License-Identifier: Apache-2.0
"""The reference of the interface, from the tables and types that the agent runs by. For tools/generate.py."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from compute_agent.manager import TABLE
from compute_agent.manager import questions as answers
from compute_agent.model import fields, schemas, states
from compute_agent.model.arguments import VERBS, Arguments
from compute_agent.model.clock import Timestamp
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
    found = {name: _first(TABLE[name].perform.__doc__) for name in VERBS}
    found |= {name: _first(answers.TABLE[name].__doc__) for name in QUESTIONS}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


# --- sections --------------------------------------------------------------------------------------


def _verbs() -> Iterator[str]:
    yield _titled(2, "Verbs")
    yield VERBS_TEXT
    yield _titled(3, "Every verb takes")
    yield _fields(Arguments, "spawn", "Spawn", only=Arguments.__struct_fields__)
    yield _titled(3, "Table of verbs")
    yield TABLE_TEXT.format(lanes=", ".join(f"`{lane.value}` {note}" for lane, note in LANES.items()))
    heads = ("verb", "lane", "may start from", "already so", "limit", "lifecycle")
    yield _table(heads, (_verb_row(TABLE[name]) for name in VERBS))
    yield RECOVERY_TEXT.format(**{kind.value: note for kind, note in RECOVERY.items()})
    after = ("verb", "after a crash", "if it fails", "observed by")
    yield _table(after, (_crash_row(TABLE[name]) for name in VERBS))
    yield _titled(3, "Verbs one by one")
    for name, kind in VERBS.items():
        yield _titled(4, f"`{name}`")
        yield _prose(TABLE[name].perform.__doc__)
        yield _fields(kind, name, kind.__name__, without=Arguments.__struct_fields__)


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
    return (
        f"[`{verb.name}`](#{verb.name})",
        lane,
        _from(verb),
        _codes(verb.already),
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
    return _codes(verb.starts_from)


def _crash_row(verb: Verb) -> tuple[str, ...]:
    return (f"`{verb.name}`", verb.recovery.value, verb.on_failure.value, verb.probe)


def _questions() -> Iterator[str]:
    yield _titled(2, "Questions")
    yield "Asked by call; they change nothing. Every answer carries `as_of: {host, host_id, epoch, seq}`."
    for name, kind in QUESTIONS.items():
        yield _titled(4, f"`{name}`")
        yield _prose(answers.TABLE[name].__doc__)
        yield _fields(kind, name, kind.__name__)


def _instance() -> Iterator[str]:
    yield _titled(2, "Instance")
    yield "Only `uuid`, `flavor` and one of `image`, `kernel`, a block device with `boot_index` 0 are needed."
    yield "An unknown field is refused by its name, unless it begins with `x_`."
    yield from _objects("instance", Instance.__name__)


def _operation() -> Iterator[str]:
    yield _titled(2, "Operation")
    yield from _objects("operation", Operation.__name__)


def _objects(schema: str, first: str) -> Iterator[str]:
    definitions = schemas.schema(schema)["$defs"]
    for name in sorted(definitions, key=lambda name: name != first):
        if "properties" in definitions[name] and name != Error.__name__:
            yield _titled(4, name)
            yield _properties(definitions[name], definitions)


def _states() -> Iterator[str]:
    yield _titled(2, "States")
    yield STATES_TEXT
    meanings = _documented(states.InstanceState)
    rows = (
        (
            f"`{state.value}`",
            meanings[state.name],
            _codes(states.TRANSITIONS[state] - {state}),
            _startable(state),
        )
        for state in states.InstanceState
    )
    yield _table(("state", "meaning", "may become", "verbs that may start from it"), rows)
    yield "A state follows what the hypervisor shows of a settled instance:"
    shown = ((f"{seen.name.lower()} ({seen.value})", f"`{to.value}`") for seen, to in states.FOLLOWED.items())
    yield _table(("power state", "state"), shown)


def _startable(state: states.InstanceState) -> str:
    names = [
        name
        for name, verb in TABLE.items()
        if verb.starts_from is not None and state in verb.starts_from and verb.about_instance
    ]
    return ", ".join(f"`{name}`" for name in VERBS if name in names)


def _events() -> Iterator[str]:
    yield _titled(2, "Events")
    yield EVENTS_TEXT
    definitions = schemas.schema("event")["$defs"]
    yield _properties(definitions["Event"], definitions)
    rows = ((f"`{kind.value}`", EVENTS[kind], "ephemeral" if kind in EPHEMERAL else "") for kind in EventType)
    yield _table(("type", "when", ""), rows)


def _errors() -> Iterator[str]:
    yield _titled(2, "Errors")
    definitions = schemas.schema("error")["$defs"]
    yield _properties(definitions["Error"], definitions)
    rows = (
        (f"`{code}`", _prose(kind.__doc__), "yes" if kind.default_retryable else "", kind.default_hint or "")
        for code, kind in ComputeError.by_code.items()
    )
    yield _table(("code", "when", "retryable", "hint"), rows)


def _configuration() -> Iterator[str]:
    yield _titled(2, "Configuration")
    yield CONFIGURATION_TEXT


# --- fields ----------------------------------------------------------------------------------------


def _fields(
    kind: type[Any],
    schema: str,
    definition: str,
    *,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> str:
    """Return the table of a type's fields."""
    definitions = schemas.schema(schema)["$defs"]
    found = definitions[definition]
    names = [name for name in found["properties"] if name not in without and (only is None or name in only)]
    return _properties(found, definitions, names)


def _properties(
    found: Mapping[str, Any], definitions: Mapping[str, Any], names: Sequence[str] | None = None
) -> str:
    required = found.get("required", ())
    shown = found["properties"] if names is None else names
    rows = [
        (
            f"`{name}`",
            _type(found["properties"][name], definitions),
            _default(found, name, required),
            _meaning(found["properties"][name]),
        )
        for name in shown
    ]
    return _table(("field", "type", "default", "meaning"), rows) if rows else "No arguments."


def _default(found: Mapping[str, Any], name: str, required: Sequence[str]) -> str:
    if name in required:
        return "**required**"
    return f"`{json.dumps(found['properties'][name].get('default'), ensure_ascii=False)}`"


def _meaning(shape: Mapping[str, Any]) -> str:
    secret = " *Secret.*" if shape.get("writeOnly") else ""
    return f"{shape.get('description', '')}{secret}"


def _type(shape: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the type of a value in words, with its limits."""
    if "anyOf" in shape:
        return " \\| ".join(_type(option, definitions) for option in shape["anyOf"])
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        named = definitions[name]
        return _type(named, definitions) if "enum" in named else name
    if "enum" in shape:
        return " \\| ".join(f"`{value}`" for value in shape["enum"])
    if "const" in shape:
        return f"`{json.dumps(shape['const'])}`"
    if "prefixItems" in shape:
        return f"[{', '.join(_type(item, definitions) for item in shape['prefixItems'])}]"
    if shape.get("pattern") in PATTERNS:
        return PATTERNS[shape["pattern"]]
    kind = shape.get("type", "anything")
    if kind == "array":
        return f"[{_type(shape.get('items', {}), definitions)}]{_limits(shape)}"
    return f"{'time' if shape.get('format') == 'date-time' else kind}{_limits(shape)}"


LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "maxLength": "≤ {} characters",
}
VAST = 2**53

NAMED = {
    "UUID": fields.Uuid,
    "time": Timestamp,
    "URL": fields.Url,
    "base64": fields.Base64,
    "MAC": fields.MacAddress,
}
PATTERNS = {msgspec.json.schema(kind)["pattern"]: name for name, kind in NAMED.items()}
"""Types that are told by their names."""


def _limits(shape: Mapping[str, Any]) -> str:
    told = {name: shape[name] for name in LIMITS if shape.get(name) not in (None, VAST)}
    found = [LIMITS[name].format(limit) for name, limit in told.items()]
    return f" {', '.join(found)}" if found else ""


# --- Markdown --------------------------------------------------------------------------------------


def _titled(level: int, title: str) -> str:
    return f"{'#' * level} {title}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell or " " for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _codes(found: Iterable[states.InstanceState]) -> str:
    """Return states in the order of their declaration."""
    chosen = set(found)
    return ", ".join(f"`{state.value}`" for state in states.InstanceState if state in chosen)


def _first(text: str | None) -> str:
    return inspect.cleandoc(text or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")


def _prose(text: str | None) -> str:
    """Return a docstring as Markdown, on one line per paragraph."""
    paragraphs = inspect.cleandoc(text or "").replace("``", "`").split("\n\n")
    return " ".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def _documented(kind: type[Any]) -> dict[str, str]:
    """Return the texts below an enumeration's members: comments to Python, which does not keep them."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found: dict[str, str] = {}
    for member, text in itertools.pairwise(body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=meaning)):
                found[name] = str(meaning)
    return found

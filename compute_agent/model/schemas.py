# SPDX-License-Identifier: Apache-2.0
"""JSON Schemas (2020-12) of everything on the wire, made from the types that the agent decodes with.

What a caller sends (verbs, questions, an instance) is closed: an unknown field is refused, ``x_*`` is let
through, and a secret is ``writeOnly``. What the agent tells (records, operations, events, replies) is open:
a receiver ignores fields that it does not know, and finds ``"***"`` where a secret was.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import inspect

from compute_agent.model import decode, secrets
from compute_agent.model.arguments import VERBS
from compute_agent.model.descriptions import describe
from compute_agent.model.errors import Error
from compute_agent.model.event import Event
from compute_agent.model.instance import Instance, InstanceRecord
from compute_agent.model.operation import Operation
from compute_agent.model.questions import QUESTIONS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EXTENSIONS = {f"^{decode.EXTENSION_PREFIX}": True}

Schema = dict[str, Any]


class Envelope(msgspec.Struct, rename={"version": "oslo.version", "message": "oslo.message"}, kw_only=True):
    """oslo.messaging's envelope: around every message, reply and notification, as ``application/json``."""

    version: Literal["2.0"]
    message: str


class Message(
    msgspec.Struct,
    rename={"unique_id": "_unique_id", "msg_id": "_msg_id", "reply_q": "_reply_q", "timeout": "_timeout"},
    kw_only=True,
):
    """A cast, or (with ``_msg_id`` and ``_reply_q``) a call. ``_context_*`` are the caller's context."""

    method: str
    args: dict[str, Any]
    version: str = "1.0"
    namespace: None = None
    unique_id: str | None = None
    msg_id: str | None = None
    reply_q: str | None = None
    timeout: float | None = None


class Reply(msgspec.Struct, rename={"unique_id": "_unique_id", "msg_id": "_msg_id"}, kw_only=True):
    """The answer to a call."""

    result: dict[str, Any] | None
    failure: str | None
    ending: Literal[True]
    msg_id: str
    unique_id: str


class Failure(msgspec.Struct, rename={"class_": "class"}, kw_only=True):
    """A failed call's ``failure``, once its JSON text is read."""

    class_: str
    module: str
    message: str
    tb: list[str]
    args: list[Any]
    kwargs: Error


class Notification(msgspec.Struct, rename={"unique_id": "_unique_id"}, kw_only=True):
    """An event on its way: oslo.messaging's notification of version 2."""

    message_id: str
    publisher_id: str
    event_type: str
    priority: Literal["INFO"]
    payload: Event
    timestamp: str
    unique_id: str


SENT: Mapping[str, type[msgspec.Struct]] = {**VERBS, **QUESTIONS, "instance": Instance}
"""What a caller writes: the arguments of each verb and question by its name, and an instance."""

TOLD: Mapping[str, type[msgspec.Struct]] = {
    "operation": Operation,
    "event": Event,
    "error": Error,
    "instance_record": InstanceRecord,
    "envelope": Envelope,
    "message": Message,
    "reply": Reply,
    "failure": Failure,
    "notification": Notification,
}
"""What a receiver reads, and the wire around both."""

NAMES = (*SENT, *TOLD)


def schemas() -> dict[str, Schema]:
    """Return every schema by its name."""
    return {name: schema(name) for name in NAMES}


def schema(name: str) -> Schema:
    """Return the schema called ``name``.

    :raises KeyError: if there is none
    """
    kind = SENT.get(name) or TOLD[name]
    return {"$schema": DIALECT, "title": name, **_of(kind, sent=name in SENT)}


def _of(kind: type[msgspec.Struct], *, sent: bool) -> Schema:
    made: Schema = msgspec.json.schema(kind)
    structs = {struct.cls.__name__: struct for struct in _structs(inspect.type_info(kind), set())}
    for name, definition in made["$defs"].items():
        if name in structs:
            _finish(definition, structs[name], sent=sent)
    return made


def _finish(definition: Schema, struct: inspect.StructType, *, sent: bool) -> None:
    """Add to an object's schema what its type alone does not say."""
    if not struct.cls.__dict__.get("__doc__"):
        definition.pop("description", None)
    properties = definition["properties"]
    for field in struct.fields:
        name = field.encode_name
        meaning = describe(struct.cls.__name__, name)
        if meaning is not None:
            properties[name] = {**properties[name], "description": meaning}
        if secrets.is_secret(field.type):
            properties[name] = _secret(properties[name], sent=sent)
    if not sent:
        definition.pop("additionalProperties", None)
    elif struct.forbid_unknown_fields:
        definition["patternProperties"] = EXTENSIONS


def _secret(found: Schema, *, sent: bool) -> Schema:
    if sent:
        return {**found, "writeOnly": True}
    about: Schema = {key: found[key] for key in ("default", "description") if key in found}
    shape = {key: value for key, value in found.items() if key not in about}
    return {"anyOf": [*shape.pop("anyOf", [shape]), {"const": secrets.HIDDEN}], **about}


def _structs(info: inspect.Type, seen: set[type]) -> Iterator[inspect.StructType]:
    """Yield every object type in ``info``, each once."""
    if isinstance(info, inspect.StructType):
        if info.cls in seen:
            return
        seen.add(info.cls)
        yield info
    for inner in _parts(info):
        yield from _structs(inner, seen)


def _parts(info: inspect.Type) -> tuple[inspect.Type, ...]:
    match info:
        case inspect.Metadata():
            return (info.type,)
        case inspect.UnionType():
            return info.types
        case inspect.StructType():
            return tuple(field.type for field in info.fields)
        case inspect.ListType():
            return (info.item_type,)
        case inspect.TupleType():
            return info.item_types
        case inspect.DictType():
            return (info.key_type, info.value_type)
    return ()

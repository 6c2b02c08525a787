# SPDX-License-Identifier: Apache-2.0
"""From a message's bytes to a request, and from a broken message to what can be told of it.

The wire is oslo.messaging's envelope 2.0: a JSON object whose ``oslo.message`` is the JSON text of
the message proper. Pure functions: whatever the bytes, the result is a request or one of three
typed errors. The types of a verb's arguments are checked elsewhere.
"""

import dataclasses
import re
import uuid
from typing import Any

import msgspec

from compute_agent.model import context as kept_context
from compute_agent.model import errors
from compute_agent.rpc.names import RPC_VERSION

ENVELOPE_VERSION = "2.0"
CONTENT_TYPE = "application/json"
MAX_DEPTH = 64
"""Levels of nesting that a message may have; deeper ones could not be written back from within the agent."""
MAX_ID = 255
"""Characters of a name or an id of the wire; AMQP's own limit for a queue's name."""
MAX_CONTEXT_KEYS = 32
MAX_CONTEXT_KEY = 64
SALVAGE_BYTES = 64 * 1024
"""How much of either end of a broken message is searched."""

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(\.\d{1,4})?")
_CONTEXT = "_context_"
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a message asks for.

    :ivar method: a verb or a question; whether there is one of that name is not checked here
    :ivar args: as they came, not yet of the verb's types
    :ivar version: the RPC version that the caller wants
    :ivar unique_id: of this publishing of the message
    :ivar msg_id: what the reply has to name; None for a cast
    :ivar reply_q: the queue of the reply; None for a cast
    :ivar timeout: seconds for which the caller waits, if it said so
    :ivar context: the part of the caller's context that is kept
    """

    method: str
    args: dict[str, Any]
    version: str = RPC_VERSION
    unique_id: str | None = None
    msg_id: str | None = None
    reply_q: str | None = None
    timeout: float | None = None
    context: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_call(self) -> bool:
        """Whether someone waits for a reply."""
        return self.msg_id is not None and self.reply_q is not None


class _Envelope(msgspec.Struct, rename={"version": "oslo.version", "message": "oslo.message"}):
    message: str
    version: str = ""


class _Message(
    msgspec.Struct,
    rename={"unique_id": "_unique_id", "msg_id": "_msg_id", "reply_q": "_reply_q", "timeout": "_timeout"},
):
    method: str
    args: dict[str, Any] = {}
    version: str | None = None
    namespace: str | None = None
    unique_id: str | None = None
    msg_id: str | None = None
    reply_q: str | None = None
    timeout: float | None = None


def wrap(message: dict[str, Any]) -> bytes:
    """Return ``message`` in the envelope, as the bytes to send."""
    text = msgspec.json.encode(message).decode()
    return msgspec.json.encode({"oslo.version": ENVELOPE_VERSION, "oslo.message": text})


def fresh_id() -> str:
    """Return a new ``_unique_id`` or ``_msg_id``."""
    return uuid.uuid4().hex


def packed_context(context: dict[str, Any]) -> dict[str, Any]:
    """Return ``context`` as it stands in a message."""
    return {f"{_CONTEXT}{key}": value for key, value in context.items()}


def request(
    method: str, args: dict[str, Any], context: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the message that asks for ``method``; ``more`` are fields such as ``_msg_id``."""
    return {
        "method": method,
        "args": args,
        "version": RPC_VERSION,
        "_unique_id": fresh_id(),
        **packed_context(context or {}),
        **more,
    }


def parse(body: bytes | memoryview, content_type: str | None, limit: int) -> Request:
    """Read a message.

    :param content_type: as the message's properties state it
    :param limit: in bytes of ``body``; a larger one is refused before anything is decoded
    :raises MessageTooLarge: if it is over ``limit``
    :raises UnsupportedVersion: if its envelope or its RPC version is not one of ours
    :raises InvalidArguments: if it can't be read for another reason
    """
    if len(body) > limit:
        raise errors.MessageTooLarge(f"the message has {len(body)} bytes, the limit is {limit}")
    _check_content_type(content_type)
    try:
        return _parse(body)
    except _UNREADABLE as error:
        raise errors.InvalidArguments(f"the message can't be read: {_reason(error)}") from None


def _check_content_type(content_type: str | None) -> None:
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != CONTENT_TYPE:
        stated = "none" if content_type is None else ascii(content_type[:64])
        raise errors.InvalidArguments(f"the content type is {stated}, not {CONTENT_TYPE}")


def _parse(body: bytes | memoryview) -> Request:
    envelope = msgspec.json.decode(body, type=_Envelope)
    if envelope.version != ENVELOPE_VERSION:
        wanted = ascii(envelope.version[:32])
        raise errors.UnsupportedVersion(f"the envelope's version is {wanted}, not {ENVELOPE_VERSION}")
    values = msgspec.json.decode(envelope.message, type=dict[str, Any])
    _check_depth(values)
    message = msgspec.convert(values, _Message)
    _check_version(message.version)
    _check_names(message)
    return Request(
        method=message.method,
        args=message.args,
        version=message.version or RPC_VERSION,
        unique_id=message.unique_id,
        msg_id=message.msg_id,
        reply_q=message.reply_q,
        timeout=message.timeout,
        context=_context(values),
    )


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise errors.InvalidArguments(f"the message is nested more than {MAX_DEPTH} levels deep")


def _inside(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _check_version(version: str | None) -> None:
    match = _VERSION.fullmatch(version or RPC_VERSION)
    major, minor = (int(part) for part in RPC_VERSION.split("."))
    if match is None or int(match[1]) != major or int(match[2]) > minor:
        asked = ascii((version or "")[:32])
        raise errors.UnsupportedVersion(f"RPC version {asked} is asked for, this agent speaks {RPC_VERSION}")


def _check_names(message: _Message) -> None:
    if message.namespace is not None:
        raise errors.InvalidArguments("the agent has no RPC namespaces")
    for name in ("method", "unique_id", "msg_id", "reply_q"):
        value = getattr(message, name)
        if value is not None and not (value.isprintable() and 0 < len(value) <= MAX_ID):
            raise errors.InvalidArguments(f"{name} is empty, longer than {MAX_ID} or not printable")


def _context(values: dict[str, Any]) -> dict[str, Any]:
    sent = {key.removeprefix(_CONTEXT): value for key, value in values.items() if key.startswith(_CONTEXT)}
    kept = kept_context.keep({k: v for k, v in sent.items() if len(k) <= MAX_CONTEXT_KEY and k.isprintable()})
    return {key: _printable(value) for key, value in list(kept.items())[:MAX_CONTEXT_KEYS]}


def _printable(value: Any) -> Any:
    """Keep line breaks and the like out of logs."""
    if isinstance(value, str) and not value.isprintable():
        return "".join(c if c.isprintable() else "?" for c in value)
    return value


def _reason(error: BaseException) -> str:
    if isinstance(error, msgspec.MsgspecError):
        return str(error)
    return "it is not UTF-8" if isinstance(error, UnicodeError) else type(error).__name__


# --- broken messages -------------------------------------------------------------------------------

_READABLE = {
    "method": r"[A-Za-z0-9_.-]{1,64}",
    "version": r"[0-9.]{1,16}",
    "operation_id": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "instance_uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "_unique_id": r"[A-Za-z0-9-]{1,64}",
    "_msg_id": r"[A-Za-z0-9-]{1,64}",
    "_reply_q": r"[A-Za-z0-9_.:-]{1,255}",
    "_context_request_id": r"[A-Za-z0-9_.:-]{1,255}",
}
"""What may be told of a broken message, and what it has to look like. No values of arguments:
they may be secret."""

# Every repetition is bounded and the beginning is literal, so that no input makes the search slow.
_SEARCHED = {
    name: re.compile(rb'"%b\\{0,3}"\s{0,4}:\s{0,4}\\{0,3}"(%b)\\{0,3}"' % (name.encode(), shape.encode()))
    for name, shape in _READABLE.items()
}


def salvage(body: bytes | memoryview) -> dict[str, Any]:
    """Return what is readable of a message that :func:`parse` refuses. Never raises.

    Found by searching its first and last 64 KiB, whatever they are, so it is a help for people and for
    a reply, not a fact.

    :return: ``size`` in bytes and, as far as they are there, ``method``, ``version``, ``operation_id``,
        ``instance_uuid``, ``unique_id``, ``msg_id``, ``reply_q``, ``request_id``; and ``truncated`` if
        the middle of the message was not looked at
    """
    found: dict[str, Any] = {"size": len(body)}
    view = memoryview(body)
    ends = [bytes(view[:SALVAGE_BYTES]), bytes(view[SALVAGE_BYTES:][-SALVAGE_BYTES:])]
    for name, pattern in _SEARCHED.items():
        match = pattern.search(ends[0]) or pattern.search(ends[1])
        if match:
            found[name.removeprefix("_context_").removeprefix("_")] = match[1].decode("ascii")
    if len(body) > 2 * SALVAGE_BYTES:
        found["truncated"] = True
    return found

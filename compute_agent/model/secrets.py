# SPDX-License-Identifier: Apache-2.0
"""Secrets: which fields they are, and values without them.

A field is secret when its type says so (:data:`compute_agent.model.fields.SECRET`). Of an address
(:data:`compute_agent.model.fields.ADDRESS`) its query and what comes before the host's name are: they may
hold a signature, or a password.
Whatever leaves the agent (events, logs, metadata of a domain, answers) goes through
:func:`redacted` first.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

HIDDEN = "***"


def redacted(value: Any) -> Any:
    """Return ``value`` as plain data (dicts, lists, strings, numbers), each secret replaced.

    An empty secret (None, an empty object) stays as it is, so that a reader sees there is none.
    """
    if isinstance(value, msgspec.Struct):
        secret, urls = _secret_fields(type(value)), _url_fields(type(value))
        return {
            name: _hide(item) if name in secret else redacted(public(item) if item and name in urls else item)
            for name, item in _items(value)
        }
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return msgspec.to_builtins(value)


def without(value: Any) -> Any:
    """Return ``value``, an object with declared fields or a list of such, each secret as if never given."""
    if isinstance(value, list):
        return [without(item) for item in value]
    if not isinstance(value, msgspec.Struct):
        return value
    secret, urls = _secret_fields(type(value)), _url_fields(type(value))
    return type(value)(
        **{
            name: public(item) if item and name in urls else without(item)
            for name, item in _items(value)
            if name not in secret
        }
    )


def public(url: str) -> str:
    """Return ``url`` without what may be secret in it: query, fragment, user and password."""
    scheme, mark, rest = url.partition("://")
    rest = rest.partition("#")[0].partition("?")[0]
    place, slash, path = rest.partition("/")
    return scheme + mark + place.rpartition("@")[2] + slash + path


def _hide(value: Any) -> Any:
    return HIDDEN if value else msgspec.to_builtins(value)


def _items(value: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(value, name)) for name in value.__struct_fields__)


def is_secret(info: inspect.Type) -> bool:
    """Return whether a field of this type is secret."""
    return _has("secret", info)


@cache
def _secret_fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    return _marked(kind, "secret")


@cache
def _url_fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    return _marked(kind, "address")


def _marked(kind: type[msgspec.Struct], mark: str) -> frozenset[str]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return frozenset(field.name for field in info.fields if _has(mark, field.type))


def _has(mark: str, info: inspect.Type) -> bool:
    if isinstance(info, inspect.Metadata):
        return bool((info.extra or {}).get(mark)) or _has(mark, info.type)
    if isinstance(info, inspect.UnionType):
        return any(_has(mark, member) for member in info.types)
    return False

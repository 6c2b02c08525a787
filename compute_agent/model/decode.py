# SPDX-License-Identifier: Apache-2.0
"""From a message's plain values to our types, with a typed error that names the field."""

from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from compute_agent.model import errors

T = TypeVar("T")
EXTENSION_PREFIX = "x_"


def arguments(values: Mapping[str, Any], kind: type[T]) -> T:
    """Check ``values`` and return them as ``kind``. Fields ``x_*`` are for others and left out.

    :raises InvalidArguments: naming the field and what is wrong with it
    """
    try:
        return msgspec.convert(without_extensions(values, kind), kind)
    except msgspec.ValidationError as error:
        raise errors.InvalidArguments(str(error)) from None
    except (RecursionError, OverflowError) as error:
        raise errors.InvalidArguments(f"arguments can't be read: {type(error).__name__}") from None


def without_extensions(value: Any, kind: type[Any]) -> Any:
    """Return ``value`` without the ``x_*`` keys of objects that have declared fields."""
    return _strip(value, _info(kind), _is_extension)  # type: ignore[arg-type]


def only_known(value: Any, kind: type[Any]) -> Any:
    """Return ``value`` without the keys that objects with declared fields don't have: for what is stored."""
    return _strip(value, _info(kind), lambda key: True)  # type: ignore[arg-type]


def _is_extension(key: str) -> bool:
    return key.startswith(EXTENSION_PREFIX)


@cache
def _info(kind: Hashable) -> inspect.Type:
    return inspect.type_info(kind)


def _strip(value: Any, info: inspect.Type, unwanted: Callable[[str], bool]) -> Any:
    if isinstance(info, inspect.Metadata):
        return _strip(value, info.type, unwanted)
    if isinstance(info, inspect.UnionType):
        for member in info.types:
            value = _strip(value, member, unwanted)
        return value
    if isinstance(info, inspect.StructType) and isinstance(value, Mapping):
        known = {f.encode_name: f.type for f in info.fields}
        return {
            key: _strip(item, known[key], unwanted) if key in known else item
            for key, item in value.items()
            if key in known or not unwanted(key)
        }
    if isinstance(info, inspect.ListType) and isinstance(value, list):
        return [_strip(item, info.item_type, unwanted) for item in value]
    return value

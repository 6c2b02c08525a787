# SPDX-License-Identifier: Apache-2.0
"""A verb's or a question's arguments as options, made from its JSON Schema.

Single values are typed, lists take commas, whatever has an inner structure is JSON. Only what was given
is sent: defaults are the agent's.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import msgspec

from compute_agent.cmd.client import values
from compute_agent.model import schemas
from compute_agent.model.arguments import Arguments

POSITIONAL = ("instance_uuid", "operation_id", "target", "orphan_id")
"""Required arguments that are given without a name, in this order."""

ALSO_POSITIONAL = frozenset({("get_info", "instance_uuid")})
"""Optional ones that may be."""

PREFIX = "field:"
"""Keeps the arguments of a verb apart from the command's own options."""

COMMON = frozenset(Arguments.__struct_fields__)

Shape = Mapping[str, Any]


def add(parser: argparse.ArgumentParser, name: str, optional: frozenset[str] = frozenset()) -> None:
    """Give ``parser`` the arguments of the verb or question ``name``.

    :param optional: required ones that may be missing here, because they can be made otherwise
    """
    schema = schemas.schema(name)
    definitions = schema["$defs"]
    top = definitions[schema["$ref"].rpartition("/")[2]]
    required = frozenset(top.get("required", ())) - optional
    kind = schemas.SENT[name]
    common = COMMON if issubclass(kind, Arguments) else frozenset[str]()
    group: Any = parser
    for field in _ordered(name, top["properties"], required, common):
        if field in common and group is parser:
            group = parser.add_argument_group("every verb takes")
        shape = top["properties"][field]
        if _positional(name, field, required):
            _add_positional(parser, field, shape, field in required)
        else:
            _add_option(group, field, _resolved(shape, definitions), shape, field in required)
    parser.usage = _usage(parser)


def given(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that were given."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in vars(namespace).items()
        if name.startswith(PREFIX) and value is not None
    }


def flag(field: str) -> str:
    """Return the option of a field."""
    return f"--{field.replace('_', '-')}"


def fields(name: str) -> tuple[str, ...]:
    """Return the fields of a verb or a question."""
    return tuple(field.encode_name for field in msgspec.structs.fields(schemas.SENT[name]))


def _ordered(name: str, properties: Shape, required: frozenset[str], common: frozenset[str]) -> list[str]:
    """First what is given without a name, then what is required, then the rest; last the common ones."""

    def rank(field: str) -> int:
        if _positional(name, field, required):
            return POSITIONAL.index(field)
        return len(POSITIONAL) + (field not in required) + 2 * (field in common)

    return sorted(properties, key=rank)


def _positional(name: str, field: str, required: frozenset[str]) -> bool:
    return field in POSITIONAL and (field in required or (name, field) in ALSO_POSITIONAL)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return a usage that names what is required; there may be dozens of options."""
    words = []
    for action in parser._actions:
        if not action.option_strings:
            words.append(str(action.metavar) if action.required else f"[{action.metavar}]")
        elif action.required:
            words.append(f"{action.option_strings[0]} {action.metavar or '…'}")
    return " ".join(["%(prog)s", *words, "[OPTION…]"])


def _add_positional(group: Any, field: str, shape: Shape, required: bool) -> None:
    group.add_argument(
        f"{PREFIX}{field}",
        metavar=field.upper(),
        nargs=None if required else "?",
        help=_help(shape),
    )


def _add_option(group: Any, field: str, plain: Shape, shape: Shape, required: bool) -> None:
    group.add_argument(
        flag(field),
        dest=f"{PREFIX}{field}",
        required=required,
        help=_help(shape),
        default=None,
        **_reading(field, plain, secret=bool(shape.get("writeOnly"))),
    )


def _reading(field: str, plain: Shape, *, secret: bool) -> dict[str, Any]:
    """Return how argparse is to read a field of the shape ``plain``."""
    kind = str(plain.get("type"))
    if "enum" in plain:
        return {"choices": plain["enum"]}
    if kind == "boolean":
        return {"action": argparse.BooleanOptionalAction}
    if kind == "array" and plain["items"].get("type") in SCALARS:
        item = SCALARS[plain["items"]["type"]]
        return {"type": values.listed(item), "action": "extend", "metavar": "A,B,…|@FILE"}
    if kind in SCALARS:
        if secret:
            return {"type": values.secret(field), "metavar": "@FILE|env:NAME|ask"}
        if plain.get("format") == "date-time":
            return {"type": values.moment, "metavar": "TIME|+SECONDS"}
        return {"type": SCALARS[kind], "metavar": METAVARS[kind]}
    return {"type": values.structured, "metavar": "JSON|@FILE"}


SCALARS: Mapping[str, values.Reader] = {"string": str, "integer": int, "number": float}
METAVARS = {"string": "TEXT", "integer": "N", "number": "N"}


def _resolved(shape: Shape, definitions: Mapping[str, Shape]) -> Shape:
    """Return what a value has to look like when it is given: not null, and no reference."""
    options = [option for option in shape.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return _resolved(options[0], definitions)
    if "$ref" in shape:
        return definitions[shape["$ref"].rpartition("/")[2]]
    return shape


def _help(shape: Shape) -> str:
    text = str(shape.get("description", ""))
    default = shape.get("default")
    if default not in (None, "", [], {}):
        shown = str(default).lower() if isinstance(default, bool) else default
        text += f" (default: {shown})"
    return text.replace("%", "%%")

# SPDX-License-Identifier: Apache-2.0
"""Types, tables and docstrings as Markdown, for tools/reference.py."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from compute_agent.model import fields, schemas, states
from compute_agent.model.clock import Timestamp


def arguments(schema: str, *, only: Sequence[str] | None = None, without: Sequence[str] = ()) -> str:
    """Return the table of the fields that ``schema`` is about."""
    whole = schemas.schema(schema)
    found = whole["$defs"][whole["$ref"].rpartition("/")[2]]
    names = [name for name in found["properties"] if name not in without and (only is None or name in only)]
    return properties(found, whole["$defs"], names)


def properties(
    found: Mapping[str, Any], definitions: Mapping[str, Any], names: Sequence[str] | None = None
) -> str:
    """Return the table of an object's properties, or of those called ``names``."""
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
    return table(("field", "type", "default", "meaning"), rows) if rows else "No arguments."


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


def title(level: int, title: str) -> str:
    """Return a title; ``level`` 1 is the page's."""
    return f"{'#' * level} {title}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; an empty cell stays one."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell or " " for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def codes(found: Iterable[states.InstanceState]) -> str:
    """Return states in the order of their declaration."""
    chosen = set(found)
    return ", ".join(f"`{state.value}`" for state in states.InstanceState if state in chosen)


def summary(text: str | None) -> str:
    """Return a docstring\'s first paragraph on one line, as plain text."""
    return inspect.cleandoc(text or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")


def prose(text: str | None) -> str:
    """Return a docstring as Markdown, on one line per paragraph."""
    paragraphs = inspect.cleandoc(text or "").replace("``", "`").split("\n\n")
    return " ".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


def documented(kind: type[Any]) -> dict[str, str]:
    """Return the texts below an enumeration's members: comments to Python, which does not keep them."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found: dict[str, str] = {}
    for member, text in itertools.pairwise(body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=meaning)):
                found[name] = str(meaning)
    return found

# SPDX-License-Identifier: Apache-2.0
"""The published contract as data, read from ``contract.json`` beside this file."""

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

PATH = Path(__file__).with_name("contract.json")


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member. ``target``: ``real``, ``base``, ``unsupported`` or ``module``."""

    name: str
    kind: str
    contracts: list[str]
    target: str
    signature: str | None = None
    value: Any = None

    def parameters(self) -> list[tuple[str, Any, Any]]:
        """Return name, kind and default of every parameter."""
        scope: dict[str, Any] = {}
        exec(f"def member{self.signature}: pass", scope)
        return shape(scope["member"])


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    """Return name, kind and default of a function's parameters, without ``self``."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters if p.name != "self"]


ROWS: list[Row] = msgspec.convert(json.loads(PATH.read_text()), list[Row])
METHODS = [row for row in ROWS if row.kind == "method"]
ATTRIBUTES = [row for row in ROWS if row.kind in ("attribute", "property")]
FUNCTIONS = [row for row in ROWS if row.target == "module"]
UNSUPPORTED = [row for row in METHODS if row.target == "unsupported"]

# SPDX-License-Identifier: Apache-2.0
"""Which points there are, read from the source: none may be in no test.

A point's name may be made at run time (``f"{verb}.{step}.before"``): what is not known then stands as ``*``.
"""

from __future__ import annotations

import ast
import fnmatch
import pathlib
from collections.abc import Iterable, Iterator

import compute_agent

SOURCE = pathlib.Path(compute_agent.__file__).parent
MAKES_STEP = ("Step", "_step", "Part")

NO_IMAGES = "the fake driver fetches no images; tests/unit/virt/images cuts a fetch there"
ON_QEMU = "a part of a step of the libvirt driver: the matrix of real guests hits it"
NO_AGENT = "the guests of the matrix have no agent; tests/functional/guests/test_quiesce.py kills there"
TWO_HOSTS = (
    "a migration takes two agents: tests/functional/migration kills each of them there, and"
    " tests/lab/test_faults.py with real guests"
)
DRAIN = "a drain takes two agents: tests/functional/migration/test_drain.py kills it there"
COLD = "the fake driver sends no files: tests/functional/coldmigration damages and kills there"
LEFT_OUT = {
    "cold.noted": COLD,
    "cold.pushed": COLD,
    "drain.asked": DRAIN,
    "drain.begun": DRAIN,
    "drain.calling_back": DRAIN,
    "drain.closed": DRAIN,
    "drain.ended_early": DRAIN,
    "drain.sending": DRAIN,
    "drain.sent": DRAIN,
    "fake.migration.arrived": TWO_HOSTS,
    "fake.migration.disk_sent": TWO_HOSTS,
    "fake.migration.held": TWO_HOSTS,
    "handshake.*.after": TWO_HOSTS,
    "handshake.*.before": TWO_HOSTS,
    "handshake.do.*": TWO_HOSTS,
    "images.fetch.chunk": NO_IMAGES,
    "images.forgotten": NO_IMAGES,
    "images.stamped": NO_IMAGES,
    "images.verified": NO_IMAGES,
    "images.upload.chunk": "the fake driver sends nothing; the tests of the libvirt driver break it off",
    "guest.freeze": NO_AGENT,
    "snapshot.delivering": ON_QEMU,
    "snapshot.frozen": NO_AGENT,
    "snapshot.mirroring": ON_QEMU,
}
"""Points that no scenario of the fake driver passes, and where they are hit instead."""

MOVING = ("cold_migration.py", "migration.py", "moving.py")
"""Modules of the fake driver whose steps no verb of this release reaches."""


def in_source() -> set[str]:
    """Return the names of all points at which ``failpoints.hit`` is called."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for call in _calls(path):
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "failpoints.hit":
                found.add(_text(call.args[0]))
    return found


def steps_of(package: str) -> set[str]:
    """Return the names of the steps that a driver's modules make; those of :data:`MOVING` left out.

    :param package: below ``compute_agent/virt``
    """
    found = set()
    for path in (SOURCE / "virt" / package).rglob("*.py"):
        if path.name not in MOVING:
            for call in _calls(path):
                if ast.unparse(call.func).rpartition(".")[2] in MAKES_STEP:
                    found |= set(_name_of_step(call))
    return found


def unmatched(patterns: Iterable[str], points: Iterable[str]) -> set[str]:
    """Return those of ``patterns`` that fit none of ``points``."""
    names = list(points)
    return {pattern for pattern in patterns if not fnmatch.filter(names, pattern)}


def _calls(path: pathlib.Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    raise ValueError(f"a point without a name of its own: {ast.unparse(node)}")


def _name_of_step(call: ast.Call) -> Iterator[str]:
    """The last of the strings that a step's making begins with: its name, perhaps behind its member's."""
    names = [argument.value for argument in call.args[:2] if isinstance(argument, ast.Constant)]
    if names:
        yield str(names[-1])

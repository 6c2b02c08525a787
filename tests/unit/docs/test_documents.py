# SPDX-License-Identifier: Apache-2.0
"""The documents point at what exists: files, headings, tests."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("tests/rig/*.md"), *ROOT.glob("etc/*.md")]
)
SPECIFICATION = ROOT / "docs" / "SPECIFICATION.md"

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
_TEST = re.compile(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`")


def links(document: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """The local links of a document: the file, and the heading in it, if one is named."""
    for target in _LINK.findall(_CODE.sub("", document.read_text())):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield ((document.parent / path).resolve() if path else document), anchor


def anchors(document: pathlib.Path) -> set[str]:
    """The headings of a document as they are linked to."""
    headings = _HEADING.findall(document.read_text())
    plain = [re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@functools.cache
def names_of_tests(path: pathlib.Path) -> set[str]:
    """The names of the tests in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: pathlib.Path) -> None:
    for path, anchor in links(document):
        assert path.exists(), path
        if anchor:
            assert anchor in anchors(path), f"{path}#{anchor}"


def test_every_promise_names_a_test_that_exists() -> None:
    named = _TEST.findall(SPECIFICATION.read_text())
    assert named
    for path, name in named:
        assert name in names_of_tests(ROOT / "tests" / path), f"{path}::{name}"


def test_every_promise_that_is_not_to_come_names_a_test() -> None:
    promised = SPECIFICATION.read_text().partition("## Measured")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| ") and "| test |" not in line]
    assert rows
    assert [row for row in rows if not _TEST.search(row)] == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = {path.name for path, _ in links(folder / "README.md")}
    assert listed == {path.name for path in folder.glob("[0-9]*.md")}

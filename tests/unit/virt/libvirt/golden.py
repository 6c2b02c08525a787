# SPDX-License-Identifier: Apache-2.0
"""Golden files: a directory of XML that is written anew by command, and read by people when it changes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping


def rewrite(directory: pathlib.Path, texts: Mapping[str, str]) -> None:
    """Write a file for each text, by its name, and remove those that have none."""
    for left in directory.glob("*.xml"):
        if left.stem not in texts:
            left.unlink()
    for name, text in texts.items():
        (directory / f"{name}.xml").write_text(text)

# SPDX-License-Identifier: Apache-2.0
"""State files as releases left them, one of each schema that ever landed, and what their records look like.

`python -m tests.unit.store.golden` writes those of a new schema, once. They are never changed afterwards:
they stand for files that are out there.
"""

import pathlib

DIRECTORY = pathlib.Path(__file__).parent


def versions() -> list[int]:
    """The schemas of which there is a file, oldest first."""
    return sorted(int(path.stem.removeprefix("schema-")) for path in DIRECTORY.glob("schema-*.sql"))


def dump(version: int) -> pathlib.Path:
    """The file with the statements that make a state file of a schema."""
    return DIRECTORY / f"schema-{version}.sql"


def records(version: int) -> pathlib.Path:
    """The file with the JSON schemas of the records in it, as far as its release minded them."""
    return DIRECTORY / f"records-{version}.json"

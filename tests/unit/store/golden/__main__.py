# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of this release's schema. They are not there yet, or this is refused."""

import json
import pathlib
import sys
import tempfile

from compute_agent.conf import CONF
from compute_agent.store.schema import VERSION
from tests.unit.house import House
from tests.unit.store import golden
from tests.unit.store.golden import filling


def main() -> int:
    """Write them; return the exit status."""
    if golden.dump(VERSION).exists():
        print(f"{golden.dump(VERSION)} is there, and such files are never changed", file=sys.stderr)
        return 1
    CONF([])
    with tempfile.TemporaryDirectory() as scratch:
        CONF.set_override("ledger", f"{scratch}/ledger", group="fake")
        text = filling.dumped(filling.fill(House(pathlib.Path(scratch))))
    golden.dump(VERSION).write_text(text)
    golden.records(VERSION).write_text(json.dumps(filling.records_schema(), indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

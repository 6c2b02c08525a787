# SPDX-License-Identifier: Apache-2.0
"""Write the golden files anew: ``python -m tests.unit.virt.libvirt.filtering.regenerate``. Read the diff."""

from __future__ import annotations

import pathlib

from tests.unit.virt.libvirt.filtering.scenarios import SCENARIOS

GOLDEN = pathlib.Path(__file__).parent / "golden"


def main() -> None:
    """Write a file for every scenario, and remove those that have none."""
    for left in GOLDEN.glob("*.xml"):
        if left.stem not in SCENARIOS:
            left.unlink()
    for name, make in SCENARIOS.items():
        (GOLDEN / f"{name}.xml").write_text(make())


if __name__ == "__main__":
    main()
